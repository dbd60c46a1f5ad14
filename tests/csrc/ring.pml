/* Promela models of the two protocols that csrc/ rests on; tests/csrc/test_models.py runs them and their mutants.
 *
 *   default     ring.c: publish, consume and close, with the sleepers' flags: 1 writer, 2 readers, 2 slots
 *   -DPIPE=1    reader 1 waits for its wake pipe (ring_arm), not on the futex
 *   -DBREAK     broken by its creator at any moment
 *   -DARENA     arena.c: recycling a block whose sender died, against a reader that takes a hold on it
 *   -DARENA -DFORWARD   the same, against a block that a living peer passes on to another
 *
 * Spin explores interleavings of a memory without caches, so store buffers are explicit: a plain store goes through the
 * process's FIFO `buffer`, which `Memory` empties whenever it likes; a seq_cst read-modify-write or store first waits
 * until the FIFO is empty (`FENCED`). Nothing wakes by timeout here: the cap on sleeps in ring.c is for signals, not
 * for correctness.
 *
 * Each mutant removes one step of a protocol and must fail:
 *   NO_RECHECK            no look at the word after setting the flag (the pipe; a futex looks by itself)
 *   FLAG_AFTER_CHECK      the flag is set after the look
 *   PLAIN_PUBLISH         head is stored, not added to by a read-modify-write, before the flag is read
 *   PLAIN_CONSUME         the same of a tail
 *   WAKE_ONE              one reader is woken for all
 *   CLEAR_AFTER           the flag is cleared after the word has changed
 *   NO_LOOK_AFTER         the flag is looked at only before the word changes
 *   RECYCLE_NO_RECHECK    no second look at the holds after the generation was taken away
 *   RECYCLE_PLAIN         the generation is taken away by a plain store
 *   PEERS_ONCE            the number of peers is not read again for the second look
 *   SCAN_ONCE             a hold that moved during the scan is not noticed (`moves`)
 *   HOLD_NO_RECHECK       a reader takes a hold without a look at the generation
 *   CHECK_BEFORE_HOLD     a reader looks at the generation before it takes its hold
 */

#ifndef ARENA

#ifndef SLOTS
#define SLOTS 2
#endif
#ifndef MESSAGES
#define MESSAGES 3
#endif
#ifndef PIPE
#define PIPE 0
#endif

/* A word: the sequence number above two flag bits, as in ring.h. */
#define CLOSED 1
#define BROKEN 2
#define STEP 4
#define SEQUENCE(word) ((word) >> 2)

/* Bits of readers_sleep. */
#define FUTEX 1
#define ARMED 2

/* Addresses in a store buffer: slots 0 and 1, then: */
#define HEAD SLOTS
#define TAIL (SLOTS + 1)

byte head, tail[2], slot[SLOTS];
byte readers_sleep;
bool writer_sleeps[2], armed[2];

bool in_futex[2];      /* the kernel: reader i sleeps on head */
byte writer_in_futex;  /* 1 + i: the writer sleeps on tail[i] */
bool pipe[2];          /* a byte is in reader i's wake pipe */

byte published;                      /* what the writer has put in, whoever can see it yet */
byte taken[2];                       /* what reader i has read to the end */
bool in_pipe[2], left[2];            /* reader i waits for its pipe; has gone */

chan writer_buffer = [2] of { byte, byte };
chan reader_buffer[2] = [2] of { byte, byte };

#define FENCED_WRITER empty(writer_buffer)
#define FENCED_READER empty(reader_buffer[i])

/* Store buffers reach the memory. */
proctype Memory() {
    byte at, value;
end:
    do
    :: atomic { writer_buffer?at, value ->
            if
            :: at == HEAD -> head = value
            :: else ->
                /* No overwrite of an unread slot. */
                assert(left[0] || taken[0] + SLOTS >= value);
                assert(left[1] || taken[1] + SLOTS >= value);
                slot[at] = value
            fi;
            at = 0; value = 0 }
    :: atomic { reader_buffer[0]?at, value -> tail[0] = value; at = 0; value = 0 }
    :: atomic { reader_buffer[1]?at, value -> tail[1] = value; at = 0; value = 0 }
    od
}

inline wake_readers() {
#ifdef WAKE_ONE
    atomic { if :: in_futex[0] -> in_futex[0] = false :: else -> in_futex[1] = false fi }
#else
    atomic { in_futex[0] = false; in_futex[1] = false }
#endif
}

inline wake_armed(i) {
    if
    :: armed[i] -> atomic { if :: armed[i] -> armed[i] = false; to_pipe = true :: else fi };
        atomic { if :: to_pipe -> pipe[i] = true; to_pipe = false :: else fi }
    :: else
    fi
}

inline wake_writer(i) { atomic { if :: writer_in_futex == i + 1 -> writer_in_futex = 0 :: else fi } }

proctype Writer() {
    byte i, word, flags;
    bool open, to_pipe;
write:
    do
    :: published < MESSAGES ->
        /* ring_wait_free */
        i = 0;
        open = false;
        do
        :: i < 2 ->
            word = tail[i];
            if
            :: word & BROKEN -> goto done
            :: !(word & BROKEN) && (word & CLOSED) -> i++
            :: !(word & 3) && published - SEQUENCE(word) < SLOTS -> open = true; i++
            :: !(word & 3) && published - SEQUENCE(word) >= SLOTS ->
                /* wait_change */
                atomic { FENCED_WRITER -> writer_sleeps[i] = true };
                if
                :: tail[i] != word
                :: else ->
                    atomic { if :: tail[i] == word -> writer_in_futex = i + 1 :: else fi };
end_asleep:         writer_in_futex == 0
                fi
            fi
        :: else -> break
        od;
        i = 0; word = 0;
        if :: !open -> goto done :: else fi;
        /* the slot, then ring_publish */
        atomic { nfull(writer_buffer) -> writer_buffer!(published % SLOTS), (published + 1) };
#ifdef PLAIN_PUBLISH
        atomic { nfull(writer_buffer) -> writer_buffer!HEAD, ((published + 1) * STEP); published++ };
        flags = readers_sleep;
        if :: flags -> atomic { FENCED_WRITER -> flags = readers_sleep; readers_sleep = 0 } :: else fi;
#else
#ifdef CLEAR_AFTER
        atomic { FENCED_WRITER -> head = head + STEP; published++ };
        flags = readers_sleep;
        if :: flags -> atomic { FENCED_WRITER -> flags = readers_sleep; readers_sleep = 0 } :: else fi;
#else
        /* change() */
        flags = readers_sleep;
        if :: flags -> atomic { FENCED_WRITER -> flags = readers_sleep; readers_sleep = 0 } :: else fi;
        atomic { FENCED_WRITER -> head = head + STEP; published++ };
#ifndef NO_LOOK_AFTER
        flags = flags | readers_sleep;
#endif
#endif
#endif
        if :: flags & FUTEX -> wake_readers() :: else fi;
        if :: flags & ARMED -> wake_armed(0); wake_armed(1) :: else fi;
        flags = 0
    :: break /* it may end the stream early ... */
    :: published == MESSAGES -> goto done /* ... or do nothing more, and then nobody may be left asleep with a message */
    od;
    /* ring_close_writer */
    atomic { FENCED_WRITER -> head = head | CLOSED };
    wake_readers();
    wake_armed(0);
    wake_armed(1);
done:
    skip
}

proctype Reader(byte i) {
    byte word;
    bool flag;
read:
    word = head;
    if
    :: word & BROKEN -> goto done
    :: !(word & BROKEN) && SEQUENCE(word) > taken[i] ->
        assert(SEQUENCE(word) - taken[i] <= SLOTS);
        assert(slot[taken[i] % SLOTS] == taken[i] + 1); /* order, nothing lost, nothing overwritten */
        taken[i] = taken[i] + 1;
        /* ring_consume */
#ifdef PLAIN_CONSUME
        atomic { nfull(reader_buffer[i]) -> reader_buffer[i]!TAIL, (taken[i] * STEP) };
        flag = writer_sleeps[i];
#else
#ifdef CLEAR_AFTER
        atomic { FENCED_READER -> tail[i] = tail[i] + STEP };
        flag = writer_sleeps[i];
        if :: flag -> atomic { FENCED_READER -> writer_sleeps[i] = false } :: else fi;
#else
        flag = writer_sleeps[i];
        if :: flag -> atomic { FENCED_READER -> writer_sleeps[i] = false } :: else fi;
        atomic { FENCED_READER -> tail[i] = tail[i] + STEP };
#ifndef NO_LOOK_AFTER
        flag = flag || writer_sleeps[i];
#endif
#endif
#endif
        if :: flag -> wake_writer(i) :: else fi;
        flag = false; word = 0;
        if
        :: i == 1 -> goto close
        :: goto read
        fi
    :: !(word & BROKEN) && SEQUENCE(word) == taken[i] && (word & CLOSED) ->
        assert(taken[i] == published); /* the end comes after everything that was published */
        goto done
    :: !(word & BROKEN) && SEQUENCE(word) == taken[i] && !(word & CLOSED) ->
        if
        :: !PIPE || i == 0 -> /* wait_change */
            atomic { FENCED_READER -> readers_sleep = readers_sleep | FUTEX };
            if
            :: head != word
            :: else ->
                atomic { if :: head == word -> in_futex[i] = true :: else fi };
end_asleep:     !in_futex[i]
            fi
        :: PIPE && i == 1 -> /* ring_arm */
#ifdef FLAG_AFTER_CHECK
            if
            :: head != word
            :: else ->
                armed[i] = true;
                atomic { FENCED_READER -> readers_sleep = readers_sleep | ARMED };
#else
            armed[i] = true;
            atomic { FENCED_READER -> readers_sleep = readers_sleep | ARMED };
            if
#ifndef NO_RECHECK
            :: head != word -> armed[i] = false
#endif
            :: else ->
#endif
                in_pipe[i] = true;
end_armed:      atomic { pipe[i] -> pipe[i] = false; in_pipe[i] = false }
            fi
        fi;
        word = 0;
        goto read
    fi;
close: /* ring_close_reader */
    armed[i] = false;
    atomic { FENCED_READER -> tail[i] = tail[i] | CLOSED; left[i] = true };
    wake_writer(i);
done:
    skip
}

/* ring_break, by the creator, at any moment or never. */
proctype Breaker() {
    bool to_pipe;
    if
    :: head = head | BROKEN;
        wake_readers();
        wake_armed(0);
        wake_armed(1);
        tail[0] = tail[0] | BROKEN;
        wake_writer(0);
        tail[1] = tail[1] | BROKEN;
        wake_writer(1)
    :: skip
    fi
}

/* When nothing moves any more, nobody may be asleep who has something to do. */
proctype Monitor() {
    byte i;
end:
    timeout ->
    do
    :: i < 2 ->
        assert(!(in_futex[i] || in_pipe[i]) || (!(head & 3) && SEQUENCE(head) == taken[i]));
        i++
    :: else -> break
    od;
    assert(writer_in_futex == 0)
}

init {
    atomic {
        run Memory(); run Writer(); run Reader(0); run Reader(1); run Monitor();
#ifdef BREAK
        run Breaker()
#endif
    }
}

#else /* ARENA */

/* One block. Peers: 0 the owner, 1 the sender, 2 the reader. The block is `data` == `generation` while that is not 0.
 * A message (block, generation 1) is on its way to the reader; the sender drops its hold, by dying, at any moment. */
#define GENERATIONS 3

byte generation = 1, data = 1, holds[3], peers_end = 2, moves = 0;
chan owner_buffer = [2] of { byte };

proctype Memory() {
    byte value;
end:
    do
    :: atomic { owner_buffer?value -> generation = value; value = 0 }
    od
}

inline look(end_) {
    do
    :: seen = moves;
       held = false;
       i = 0;
       do
       :: i < end_ -> if :: holds[i] -> held = true :: else fi; i++
       :: else -> break
       od;
       i = 0;
#ifdef SCAN_ONCE
       break
#else
       if :: held || moves == seen -> break :: else fi
#endif
    od;
    seen = 0
}

proctype Owner() {
    byte i, end_, seen, next = 1;
    bool held;
end:
    do
    :: next < GENERATIONS ->
        /* recycle() */
        end_ = peers_end;
        look(end_);
        if
        :: !held ->
#ifdef RECYCLE_PLAIN
            owner_buffer!0;
#else
            atomic { empty(owner_buffer) -> generation = 0 };
#endif
#ifndef RECYCLE_NO_RECHECK
#ifndef PEERS_ONCE
            end_ = peers_end;
#endif
            look(end_);
#endif
            if
            :: !held ->
                /* arena_alloc and the next message */
                next++;
                atomic { empty(owner_buffer) -> data = next };
                generation = next
            :: else
            fi
        :: else
        fi
    :: break
    od
}

proctype Sender() {
    holds[1] = holds[1] - 1
}

proctype Reader() {
    bool good;
    /* claim_peer */
    peers_end = 3;
    /* arena_hold */
#ifdef CHECK_BEFORE_HOLD
    good = (generation == 1);
    holds[2] = holds[2] + 1;
    moves++;
#else
    holds[2] = holds[2] + 1;
    moves++;
#ifdef HOLD_NO_RECHECK
    good = true;
#else
    good = (generation == 1);
#endif
#endif
    if
    :: good ->
        assert(data == 1); /* the value that was sent ... */
        assert(data == 1)  /* ... and it does not change while it is kept */
    :: else
    fi;
    holds[2] = holds[2] - 1
}

#ifdef FORWARD
/* Peer 2 has the block and sends it on to peer 1, whose counter the owner's scan may have passed already. */
proctype Forward() {
    holds[1] = holds[1] + 1; /* arena_hold, in the receiver */
    moves++;
    holds[2] = holds[2] - 1; /* the sender sees that it was taken */
    assert(data == 1);
    assert(generation == 1); /* it can be sent on again */
    holds[1] = holds[1] - 1
}

init {
    holds[2] = 1;
    peers_end = 3;
    atomic { run Memory(); run Owner(); run Forward() }
}
#else
init {
    holds[1] = 1;
    atomic { run Memory(); run Owner(); run Sender(); run Reader() }
}
#endif

#endif
