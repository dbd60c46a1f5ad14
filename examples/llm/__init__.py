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
- `setup`       what an example does before its own part: open the model, encode the prompts
- `grid`        pipeline stages of tensor-parallel ranks as one graph, for `examples.mixed_parallel_llm`
- `copies`      who copies weights from host memory into buffers on a device, and how long is waited for them
- `offload`     a stage whose layers take turns in such buffers, for `examples.cpu_offload`
- `device`      an actor that stands for one of several unlike devices, for `examples.heterogeneous`

For `examples.prefill_disaggregation`, a server:

- `load`        chats and documents that arrive by a seeded schedule
- `router`      who goes where: queue, slots, batches; scheduling state alone
- `kv_blocks`   the KV cache of one sequence and some layers as a value that travels
- `replica`     the whole model as an actor that prefills, hands over, admits and decodes
- `disaggregation`  its graphs, and whether what they compute is right
- `serving`     the server's I/O: arrivals, prefills and decode steps under asyncio
- `latency`     TTFT, TPOT, inter-token latency, and which way is best in what
- `transfer`    what handing a KV cache over costs; `serving_report` prints it all
"""
