"""A small Llama for `examples.pipeline_llm` and `examples.tensor_parallel_llm`, cut into what actors can hold.

Read in this order; each file is one idea:

- `config`      the numbers that describe a Llama checkpoint
- `model`       the pieces: embedding, decoder layers with their KV cache, norm + lm_head
- `stage`       contiguous pieces behind one `forward`; what an actor of the pipeline is
- `sequences`   prompts, groups of prompts, and the decode loop that keeps every stage busy
- `tokenizer`   text <-> token ids, from the checkpoint's own vocabulary and chat template
- `checkpoint`  the cached folder that all of them load from; `gguf_import` and `tiny` fill it
- `shard`       one rank's share of every layer; what an actor of the tensor-parallel model is
- `agreement`   how far two ways of computing the model agree, teacher-forced
- `collective_time`  where the time of a tensor-parallel step goes, from a trace
- `display`     tokens on the terminal while they come, and the table at the end
"""
