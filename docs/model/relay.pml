/*
 * The relay in small: cursor, ticks, waking, a change of the leader, and a Redis that loses its log. README.md says what maps to which code.
 * `make model` verifies it exhaustively, and that each of these mutants is refuted:
 *
 *   PUBLISH_FIRST  Redis gets a batch before its tick is durable
 *   REUSE          a batch begins at the position of the one before
 *   LOST_WAKE      the relay falls asleep without waiting for those who saw it awake
 *   NO_LAST_READ   … or without reading once more when none of them is left
 *   STALE_LEADER   a former leader can still commit ticks
 */
#ifndef WRITERS
#define WRITERS 2
#endif
#define MAX     (WRITERS + 2)     /* ticks and positions: a tick is never empty */
#define bit(n)  (1 << (n))        /* writer n emits row n; sets of rows are bits */

byte visible, durable;            /* rows that are committed; those that no crash can take back */
byte flying;                      /* writers that hold a lock on the outbox */
byte ticks = 1;                   /* tick 0 is the base, it sees nothing */
byte sees[MAX], after[MAX];       /* the snapshot of tick n; the tick that it extends */
byte position[MAX];               /* of tick n; its batch is one entry */
byte leader, sleeping;            /* who holds the leader's lock and the sleep lock: 1, 2, or 0 */
bool notified;                    /* a notification waits for the leader's session */

byte top;                         /* Redis: the newest position of the log, and its entries */
byte entry[MAX];

byte cursor, got;                 /* what a client has */

#define news(n)  (visible & ~sees[n])
#define batch(n) (sees[n] & ~sees[after[n]])
#define session  (leader == me)   /* lock, LISTEN, reads and ticks share it */

proctype Writer(byte me) {
	bool wake;
	atomic { flying = flying | bit(me); wake = (sleeping != 0) }    /* INSERT, and its trigger */
	if
	:: visible = visible | bit(me);                                 /* COMMIT */
	   atomic { notified = notified || (wake && leader != 0) }
	:: skip                                                         /* ROLLBACK */
	fi;
	flying = flying & ~bit(me)                                      /* its locks go last */
}

/* append.lua: at or below the newest it must be there; above, only behind its predecessor. */
inline append(at, before, rows) {
	atomic {
		if
		:: at <= top -> assert(entry[at] == rows); ok = true
		:: at > top && before == top -> entry[at] = rows; top = at; ok = true
		:: else -> ok = false
		fi
	}
}

proctype Relay(byte me) {
	byte n, k, waiting, at;
#ifdef PUBLISH_FIRST
	byte seen;
#endif
	bool ok;

standby:
end_standby:
	atomic { leader == 0 -> leader = me; n = ticks - 1; waiting = 0 }
	if :: n == 0 -> goto read :: else fi;                           /* else the newest tick is published again */

publish:
	append(position[n], position[after[n]], batch(n));
refill:
	if
	:: ok -> goto read
	:: else ->                                                      /* from the outbox, one piece after the other */
		k = 1;
		do
		:: k <= n ->
			if :: !session -> goto standby :: else fi;
			atomic {
				if :: position[k] > top -> entry[position[k]] = batch(k); top = position[k] :: else fi;
				k++
			}
		:: else -> break
		od
	fi;

read:
	atomic {
#ifndef STALE_LEADER
		if :: !session -> goto standby :: else fi;
#endif
		if :: news(n) == 0 -> goto fall_asleep :: else fi;
#ifdef REUSE
		at = position[n] + (n == 0);
#else
		at = position[n] + 1;
#endif
#ifdef PUBLISH_FIRST
		seen = visible;
	}
	append(at, position[n], seen & ~sees[n]);
	atomic {
		if :: !session -> goto standby :: else fi;
		sees[ticks] = seen;
#else
		sees[ticks] = visible;
#endif
		after[ticks] = n; position[ticks] = at; n = ticks; ticks++;
		durable = durable | sees[n]
	}
	goto publish;

fall_asleep:
	if
	:: atomic { session && sleeping == me -> goto doze }            /* still asleep from before */
	:: atomic { session && sleeping != me -> sleeping = me }
	:: !session -> goto standby
	fi;
#ifndef LOST_WAKE
	waiting = flying;                                               /* they may have seen it awake */
#ifndef NO_LAST_READ
	if :: news(n) -> goto woken :: else fi;                         /* and so may those who have just ended */
#endif
doze:
	if                                                              /* until they have ended; then it reads once more */
	:: waiting -> atomic {
		(!(waiting & flying) || news(n) || !session) -> waiting = waiting & flying;
		if :: news(n) || !session -> goto woken :: else fi
	   }
	:: else
	fi;
#else
doze:
#endif
end_wait:
	if
	:: atomic { notified && session -> notified = false }
	:: atomic { session && top != position[n] -> ok = false; goto refill } /* the comparison with Redis, now and then */
	:: !session -> goto standby
	fi;
woken:
	atomic {
		if
		:: !session -> waiting = 0; goto standby
		:: session -> sleeping = 0; waiting = 0                  /* awake: nobody notifies */
		:: session
		fi
	}
	goto read
}

/* The leader's session is cut once, at any time. What it is doing in Redis goes on. */
proctype Cut() {
end:
	atomic { leader != 0 -> leader = 0; sleeping = 0; notified = false }
}

/* Redis loses all of its log, or its end. */
proctype Loss() {
	byte k;
end:
	atomic {
		top > 0;
		if
		:: do :: top > 0 -> entry[top] = 0; top-- :: else -> break od
		:: entry[top] = 0; top--
		fi
	}
}

proctype Client() {
end:
	do
	:: atomic {
		top > cursor -> cursor++;
		assert(entry[cursor] != 0);                              /* no hole */
		assert(!(entry[cursor] & ~durable));                     /* no phantom */
		assert(!(entry[cursor] & got));                          /* nothing twice */
		got = got | entry[cursor]
	   }
	od
}

init {
	byte w;
	atomic {
		for (w : 0 .. WRITERS - 1) { run Writer(w) }
		run Relay(1); run Relay(2); run Cut(); run Loss(); run Client()
	}
	timeout -> assert(got == visible)                                /* when nothing moves any more, all is delivered */
}
