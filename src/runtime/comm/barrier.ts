/**
 * A barrier over shared memory: a flag per rank, each on a cache line of its own.
 *
 * To arrive, a rank raises its flag to the number of the barrier; it has passed when it has seen all flags that high. A
 * rank first looks again and again (0.2 µs between two running ranks), for a while that adapts to how long waits have
 * been, but not where the rank that it waits for was seen last on this very core. After that it sleeps on one futex that all
 * share, the bell, which ranks that have passed ring if anybody sleeps.
 *
 * Where ranks outnumber cores, the one that is waited for may need this core: a rank gives it away a few times before it sleeps,
 * which between ranks that all wait is ten times as quick as sleeping and waking (4 ranks on 2 cores: 3 µs instead of 30).
 * On a machine that is busy otherwise a yield costs somebody's whole time slice, from Linux 6.6 on; a rank that finds that out
 * only sleeps for a while. Where there are cores enough nobody yields, since two ranks would stay on one core beside a free one.
 *
 * No wake-up is lost. A sleeper reads the bell, counts itself as a sleeper, looks at the flags once more, and sleeps only
 * while the bell has not changed. A rank that passes without having slept looks whether anybody sleeps, and rings. Counting and
 * that look are atomic operations, so each rank's flag is there for all before it counts itself, or before it looks.
 * Not all can sleep: who counts itself last sees the flags of all who have. So one rank at least passes awake, and of every
 * sleeper that missed its flag, it sees the count; it rings when all flags are up. A sleeper that it does not see has read the
 * bell after that, and then finds all flags up.
 *
 * On x86 an atomic store waits until the line has come back from who reads it, which takes as long as the barrier itself. A rank
 * that stays and looks can do with a plain store: the processor keeps stores in order, as V8 does, and one of the atomic
 * operations above comes before it goes on to anything else.
 *
 * Beside its flag a rank leaves a fingerprint of the operation that it means, in one of two places by turns (nobody is
 * more than one barrier ahead), so that ranks that mean different things find out at no cost. A few numbers may lie there
 * too, in two places likewise: who reads the flag has then fetched them already.
 */
import type { Libc } from "../../ffi/libc.ts";
import type { ControlBlock } from "./control_block.ts";

/** What a wait does after every sleep: look for aborts, dead peers and deadlines, if it is time; throws to end the wait. */
export type OnSlice = () => void;

/** Longest sleep before `OnSlice` is called again, in milliseconds. */
export const SLICE_MS = 100;

const MAX_SPIN_US = 1000, MIN_SPIN_US = 200;
/** Looks between two readings of the clock, which cost as much as twenty looks: the quickest waits end before the first reading. */
const LOOKS_PER_READING = 64;
/** Readings after which a rank asks on which core it is. */
const ROUNDS_BEFORE_CORES = 4;
/** How often to give the core away before sleeping, how long that may take, and for how many waits not to do it if it took longer. */
const MAX_YIELDS = 20, YIELDS_MS = 0.5, WAITS_WITHOUT_YIELDS = 300;
/** Whether stores become visible in their order without being asked to. */
const ORDERED_STORES = Deno.build.arch === "x86_64";
/** Word of a rank's second line, which nobody else touches, for an atomic operation that only orders others. */
const FENCE = 63;
/** Word of a rank's flag line in which it leaves the core that it last ran on, plus 1. */
const CORE = 4;

/** One rank's side of the barrier. */
export class FlagBarrier implements Disposable {
  #control: ControlBlock;
  #words: Int32Array;
  #libc: Libc;
  #rank: number;
  #flags: readonly number[];
  #peers: readonly number[];
  #generation = 0;
  #fingerprint = 0;
  /** Position in `#peers` of the first flag that was not up at the last look. */
  #next = 0;
  #spinUs: number;
  /** Waits that are left until it may yield again. */
  #unyielding = 0;
  /** Whether it has arrived and neither slept nor passed since. */
  #awake = false;
  /** How often this rank is counted as a sleeper. */
  #asleep = 0;
  #closed = false;
  readonly #maxSpinUs: number;

  constructor(control: ControlBlock, libc: Libc, options: { rank: number; spin: boolean }) {
    this.#control = control;
    this.#words = control.words;
    this.#libc = libc;
    this.#rank = options.rank;
    this.#flags = Array.from({ length: control.size }, (_, r) => control.flagIndex(r));
    // Start with the right neighbour, so that not all ranks read the same line at once.
    this.#peers = Array.from(
      { length: control.size - 1 },
      (_, i) => this.#flags[(options.rank + 1 + i) % control.size]!,
    );
    this.#maxSpinUs = options.spin ? MAX_SPIN_US : 0;
    this.#spinUs = options.spin ? 200 : 0;
  }

  /** How many barriers this rank has arrived at. */
  get generation(): number {
    return this.#generation;
  }

  /** Which of the places beside its flag this rank writes to before it arrives the next time, and reads from after that. */
  get nextParity(): 0 | 1 {
    return ((this.#generation + 1) & 1) as 0 | 1;
  }

  /** Raises this rank's flag, leaving `fingerprint` beside it. */
  arrive(fingerprint: number): void {
    this.#prepare(fingerprint);
    Atomics.store(this.#words, this.#flags[this.#rank]!, this.#generation);
  }

  /** The same for a rank that looks until it has passed, or sleeps. */
  arriveToStay(fingerprint: number): void {
    this.#prepare(fingerprint);
    const words = this.#words, flag = this.#flags[this.#rank]!;
    if (ORDERED_STORES) words[flag] = this.#generation;
    else Atomics.store(words, flag, this.#generation);
  }

  #prepare(fingerprint: number): void {
    const words = this.#words, flag = this.#flags[this.#rank]!;
    const generation = this.#generation = (this.#generation + 1) | 0;
    this.#fingerprint = fingerprint;
    words[flag + 2 + (generation & 1)] = fingerprint;
    this.#next = 0;
    this.#awake = true;
  }

  /** Whether all have arrived; wakes those who sleep when this rank finds that out awake. */
  passed(): boolean {
    const words = this.#words, peers = this.#peers, generation = this.#generation;
    let i = this.#next;
    while (i < peers.length && ((Atomics.load(words, peers[i]!) - generation) | 0) >= 0) i++;
    this.#next = i;
    if (i < peers.length) return false;
    if (this.#awake) this.#wakeSleepers();
    return true;
  }

  #wakeSleepers(): void {
    const words = this.#words, flag = this.#flags[this.#rank]!;
    this.#awake = false;
    Atomics.add(words, flag + FENCE, 0);
    if (Atomics.load(words, this.#control.sleepersIndex) <= this.#asleep) return;
    words[flag + CORE] = this.#libc.currentCore() + 1; // who sleeps for this rank's sake shall not do so for an old reason
    this.ring();
  }

  /** Whether all meant the same, once all have arrived. */
  agreed(): boolean {
    const words = this.#words, peers = this.#peers, at = 2 + (this.#generation & 1), mine = this.#fingerprint;
    for (let i = 0; i < peers.length; i++) if (words[peers[i]! + at] !== mine) return false;
    return true;
  }

  /** The ranks that have not arrived. */
  missing(): number[] {
    const behind = (rank: number) => ((Atomics.load(this.#words, this.#flags[rank]!) - this.#generation) | 0) < 0;
    return this.#flags.map((_, rank) => rank).filter(behind);
  }

  /** Looks for a while, or lets others run; true when all have arrived, false when it is better to sleep, or when the group was aborted. */
  spin(): boolean {
    if (this.passed()) return true;
    if (this.#spinUs === 0) return this.#giveWay();
    const words = this.#words, abort = this.#control.abortIndex;
    let end = 0;
    for (let rounds = 1;; rounds++) {
      for (let look = 0; look < LOOKS_PER_READING; look++) if (this.passed()) return true;
      if (Atomics.load(words, abort) !== 0) return false;
      if (rounds === ROUNDS_BEFORE_CORES && this.#sharesCore()) return false;
      const now = performance.now();
      if (rounds === 1) end = now + this.#spinUs / 1000;
      else if (now >= end) return false;
    }
  }

  /** Lets the other ranks of this core run; whether all have arrived meanwhile. */
  #giveWay(): boolean {
    if (this.#unyielding > 0) {
      this.#unyielding--;
      return false;
    }
    const start = performance.now();
    let passed = false;
    for (let i = 0; i < MAX_YIELDS && !passed; i++) {
      this.#libc.yieldNow();
      passed = this.passed();
    }
    if (performance.now() - start > YIELDS_MS) this.#unyielding = WAITS_WITHOUT_YIELDS;
    return passed;
  }

  /** Whether a rank that is missing was last seen on this rank's core, where it cannot run meanwhile. */
  #sharesCore(): boolean {
    const words = this.#words, core = this.#libc.currentCore() + 1;
    words[this.#flags[this.#rank]! + CORE] = core;
    if (core === 0) return false;
    for (let i = this.#next; i < this.#peers.length; i++) if (words[this.#peers[i]! + CORE] === core) return true;
    return false;
  }

  /** Waits until all have arrived, blocking JavaScript; `onSlice` is called after every sleep. */
  waitSync(onSlice: OnSlice): void {
    if (this.spin()) return;
    const start = performance.now();
    const passed = () => this.passed();
    while (!this.passed()) {
      const bell = this.#lieDown(passed);
      if (bell !== undefined) {
        this.#libc.futexWait(this.#control.bell, bell, SLICE_MS);
        this.#getUp();
        if (this.passed()) break;
      }
      onSlice();
    }
    this.#adapt(performance.now() - start);
  }

  /** One sleep of at most `SLICE_MS` off the event loop; none if `ready` says, once this rank is counted, that it need not. */
  async sleep(ready: () => boolean): Promise<void> {
    const start = performance.now();
    const bell = this.#lieDown(ready);
    if (bell === undefined) return;
    try {
      await this.#libc.futexWaitAsync(this.#control.bell, bell, SLICE_MS);
    } finally {
      this.#getUp();
    }
    this.#adapt(performance.now() - start);
  }

  /** The same, blocking JavaScript. */
  nap(ready: () => boolean): void {
    const bell = this.#lieDown(ready);
    if (bell === undefined) return;
    this.#libc.futexWait(this.#control.bell, bell, SLICE_MS);
    this.#getUp();
  }

  /** Wakes those who sleep, if any do; for what is not a barrier. */
  wake(): void {
    if (Atomics.load(this.#words, this.#control.sleepersIndex) > 0) this.ring();
  }

  /** Wakes all who sleep. */
  ring(): void {
    Atomics.add(this.#words, this.#control.bellIndex, 1);
    this.#libc.futexWake(this.#control.bell);
  }

  /** Counts this rank as a sleeper and gives the bell's value to sleep on; undefined if there is no need to sleep. */
  #lieDown(ready: () => boolean): number | undefined {
    const words = this.#words;
    const bell = Atomics.load(words, this.#control.bellIndex);
    Atomics.add(words, this.#control.sleepersIndex, 1);
    this.#asleep++;
    let sleepy = false;
    try {
      sleepy = !ready() && Atomics.load(words, this.#control.abortIndex) === 0;
    } finally {
      if (!sleepy) this.#getUp(); // also when `ready` throws
    }
    if (sleepy) this.#awake = false;
    return sleepy ? bell : undefined;
  }

  #getUp(): void {
    if (this.#closed) return;
    this.#asleep--;
    Atomics.sub(this.#words, this.#control.sleepersIndex, 1);
  }

  /**
   * This rank leaves. A sleep that is under way off the event loop counts no more, and touches nothing when it ends: the memory may be
   * another group's by then.
   */
  [Symbol.dispose](): void {
    if (this.#closed) return;
    this.#closed = true;
    Atomics.sub(this.#words, this.#control.sleepersIndex, this.#asleep);
  }

  /** A sleep that was short would have been a spin better spent; after a long one, spinning was waste. */
  #adapt(sleptMs: number): void {
    if (this.#maxSpinUs === 0) return;
    const next = sleptMs * 1000 < this.#maxSpinUs ? this.#spinUs * 2 : this.#spinUs / 2;
    this.#spinUs = Math.min(this.#maxSpinUs, Math.max(MIN_SPIN_US, next));
  }
}
