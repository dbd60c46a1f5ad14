/* A Promela model of the rounds of csrc/collective.h (collective_rounds.c); tests/csrc/test_models.py runs it and its
 * mutants.
 *
 * RANKS ranks make OPERATIONS operations. Each of them is one of all ranks, or one of the pair of ranks 0 and 1, as
 * chosen before they begin; and perhaps one rank of the two asks for something else: for another shape in the pair, or
 * for the pair where the others are all together. Every rank must be told the same, and nobody may be left waiting.
 *
 *   -DRANKS=3 -DPAIR_FIRST    a third rank, which is with all while the others are still in the pair
 *
 * Store buffers are explicit, as in ring.pml: what a post says is a plain store, which goes through the rank's FIFO;
 * the counters and `awaits` are exchanged, which waits until the FIFO is empty. Nothing wakes by timeout here: the cap
 * on sleeps is for signals and for dead processes.
 *
 * Each mutant removes one step of the protocol and must fail:
 *   PLAIN_PUBLISH         the counter is stored, not exchanged, before the look at who awaits us
 *   PLAIN_AWAITS          the same of `awaits`, before the look at the counter
 *   NO_RECHECK            no look at the counter between `awaits` and the sleep
 *   NO_RECHECK_CROSSED    no look, before the sleep, at whether the partner waits for us in a round of all
 *   BELL_AFTER            the bell is read after that look
 *   ONE_POST              a member has one post, not two in turn
 *   NO_CROSSING           who waits in the pair does not look at what its partner does with all
 *   CROSSED_ONLY          who sees its partner wait with all does not look again whether it has been in the pair before
 *   NO_WITHDRAW           the post in the pair is not taken back
 */

#ifndef RANKS
#define RANKS 2
#endif
#ifndef OPERATIONS
#define OPERATIONS 2
#endif

#define ALL 0
#define PAIR 1
#define FIRST 2 /* the number before the first round */

#define OK 0
#define MISMATCH 1
#define CROSSED 2

/* The post of rank r in the round of this number; of the pair behind those of all. */
#ifdef ONE_POST
#define POST(r, round) (r)
#else
#define POST(r, round) (2 * (r) + ((round) & 1))
#endif
#define PAIRS (2 * RANKS)

byte round_of[2 * RANKS + 4], what_of[2 * RANKS + 4];
byte awaits[RANKS], bell[RANKS];
bool asleep[RANKS]; /* the kernel: on its own bell */

byte kind[OPERATIONS], odd[OPERATIONS]; /* odd: 1 + the rank that asks for something else, or 0 */
bool ready;

chan buffer[RANKS] = [3] of { byte, byte, bool };

#define FENCED empty(buffer[me])

inline store() {
    if
    :: counter -> round_of[at] = value
    :: else -> what_of[at] = value
    fi;
    at = 0; value = 0; counter = false
}

/* Store buffers reach the memory. */
proctype Memory() {
    byte at, value;
    bool counter;
end:
    do
    :: atomic { buffer[0]?at, value, counter -> store() }
    :: atomic { buffer[1]?at, value, counter -> store() }
#if RANKS > 2
    :: atomic { buffer[2]?at, value, counter -> store() }
#endif
    od
}

/* publish() */
inline publish(at, value) {
#ifdef PLAIN_PUBLISH
    atomic { nfull(buffer[me]) -> buffer[me]!(at), (value), true };
#else
    atomic { FENCED -> round_of[at] = value };
#endif
    q = 0;
    do
    :: q < RANKS ->
        if
        :: q != me && awaits[q] == me + 1 -> atomic { bell[q] = bell[q] + 1; asleep[q] = false }
        :: else
        fi;
        q++
    :: else -> q = 0; break
    od
}

/* post() */
inline post(base, circle_round) {
    circle_round++;
    atomic { nfull(buffer[me]) -> buffer[me]!(base + POST(me, circle_round)), what, false };
    publish(base + POST(me, circle_round), circle_round)
}

/* wait_for(): until round_of[at] >= target; in the pair, unless the other one waits for us with all. */
inline wait_for(at, target, rank, pair) {
    status = OK;
    do
    :: round_of[at] >= target -> break
    :: else ->
        obstacle(at, target, rank, pair);
        if :: status == CROSSED -> break :: else fi;
        /* sleep_for() */
#ifdef BELL_AFTER
        atomic { FENCED -> awaits[me] = rank + 1 };
        if
        :: round_of[at] >= target -> goto_awake = true
        :: else -> obstacle(at, target, rank, pair)
        fi;
        seen = bell[me];
#else
        seen = bell[me];
#ifdef PLAIN_AWAITS
        look = round_of[at]; /* what a load sees that overtakes the store */
        awaits[me] = rank + 1;
        if :: look >= target -> goto_awake = true :: else fi;
#else
        atomic { FENCED -> awaits[me] = rank + 1 };
#ifndef NO_RECHECK
        if :: round_of[at] >= target -> goto_awake = true :: else fi;
#endif
#endif
#ifndef NO_RECHECK_CROSSED
        if :: !goto_awake -> obstacle(at, target, rank, pair) :: else fi;
#endif
#endif
        if
        :: goto_awake || status == CROSSED
        :: else ->
            atomic { if :: bell[me] == seen -> asleep[me] = true :: else fi };
            !asleep[me]
        fi;
        awaits[me] = 0;
        goto_awake = false;
        seen = 0;
        if :: status == CROSSED -> break :: else fi
    od
}

/* obstacle() */
inline obstacle(at, target, rank, pair) {
#ifndef NO_CROSSING
    if
    :: pair && round_of[POST(rank, all + 1)] >= all + 1 ->
#ifdef CROSSED_ONLY
        status = CROSSED
#else
        if :: round_of[at] >= target :: else -> status = CROSSED fi
#endif
    :: else
    fi
#else
    skip
#endif
}

inline wait_for_all() {
    other = 0;
    do
    :: other < RANKS ->
        if :: other != me -> wait_for(POST(other, all), all, other, false) :: else fi;
        other++
    :: else -> other = 0; break
    od
}

/* collective_agree() in the circle of all; what_of / 4 is the operation, below that what was asked for */
inline agree_all(is_pair) {
    post(0, all);
    wait_for_all();
    result = (is_pair -> MISMATCH : OK);
    other = 0;
    do
    :: other < RANKS ->
        if
        :: other != me ->
            assert(what_of[POST(other, all)] / 4 == operation); /* of this round, not of an earlier or later one */
            if :: what_of[POST(other, all)] != what -> result = MISMATCH :: else fi
        :: else
        fi;
        other++
    :: else -> other = 0; break
    od
}

inline agree_pair() {
    post(PAIRS, with);
    wait_for(PAIRS + POST(1 - me, with), with, 1 - me, true);
    if
    :: status == CROSSED ->
#ifndef NO_WITHDRAW
        atomic { FENCED -> round_of[PAIRS + POST(me, with)] = with - 2; with-- };
#else
        with--;
#endif
        status = OK;
        agree_all(true)
    :: else ->
        assert(what_of[PAIRS + POST(1 - me, with)] / 4 == operation);
        result = (what_of[PAIRS + POST(1 - me, with)] == what -> OK : MISMATCH)
    fi
}

proctype Rank(byte me) {
    byte operation, all = FIRST, with = FIRST, what, q, other, seen, look;
    byte status, result;
    bool goto_awake;
    do
    :: operation < OPERATIONS ->
        if
        :: kind[operation] == PAIR && me > 1 -> skip /* it goes on meanwhile */
        :: else ->
            what = operation * 4 + kind[operation] + (odd[operation] == me + 1 -> 2 : 0);
            if
            :: kind[operation] == ALL && odd[operation] == me + 1 -> agree_pair()
            :: kind[operation] == ALL && odd[operation] != me + 1 -> agree_all(false)
            :: kind[operation] == PAIR -> agree_pair()
            fi;
            assert(result == (odd[operation] -> MISMATCH : OK));
            atomic { what = 0; result = 0 }
        fi;
        operation++
    :: else -> break
    od
}

init {
    byte i;
    atomic {
        do
        :: i < OPERATIONS ->
#ifdef PAIR_FIRST
            kind[i] = (i == 0 -> PAIR : ALL);
            if :: true -> odd[i] = 0 :: i > 0 -> odd[i] = 1 :: i > 0 -> odd[i] = 2 fi;
#else
            if :: kind[i] = ALL :: kind[i] = PAIR fi;
            if :: odd[i] = 0 :: odd[i] = 1 :: odd[i] = 2 fi;
#endif
            i++
        :: else -> i = 0; break
        od;
        do
        :: i < RANKS ->
            round_of[POST(i, FIRST)] = FIRST;
#ifndef ONE_POST
            round_of[POST(i, FIRST + 1)] = FIRST - 1;
#endif
            if
            :: i < 2 ->
                round_of[PAIRS + POST(i, FIRST)] = FIRST;
#ifndef ONE_POST
                round_of[PAIRS + POST(i, FIRST + 1)] = FIRST - 1
#endif
            :: else
            fi;
            i++
        :: else -> i = 0; break
        od;
        run Memory();
        run Rank(0);
        run Rank(1);
#if RANKS > 2
        run Rank(2)
#endif
    }
}
