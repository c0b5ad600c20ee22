/** The communicator of a job of one rank: every verb at once, on any system, without shared memory. */
import { UnavailableError } from "../../core/errors.ts";
import type { SymmetricArena } from "./arena.ts";
import { PrivateArena } from "./private_arena.ts";
import { requirePlace } from "./arguments.ts";
import type { GroupOptions } from "./communicator.ts";
import { ASIDE_BYTES, type OperationCode } from "./control_block.ts";
import type { EngineOptions } from "./engines.ts";
import { CollectiveMismatch, CommunicatorError } from "./errors.ts";
import type { MailboxPeers } from "./mailbox.ts";
import { type Meeting, SLOT_BYTES } from "./meeting.ts";
import { CHANNEL_BYTES } from "./message_channels.ts";
import { Reducers } from "./reduce_wasm.ts";
import { MeetingCommunicator } from "./verbs.ts";

/** One rank alone. */
export class LocalCommunicator extends MeetingCommunicator {
  readonly backend = "local";
  readonly arena: SymmetricArena = new PrivateArena(0, "local");

  #meeting: LocalMeeting;

  constructor(options: { readonly name?: string; readonly rank?: number; readonly localRank?: number } = {}) {
    const meeting = new LocalMeeting();
    const { name = "world", rank = 0, localRank = 0 } = options;
    const cores = navigator.hardwareConcurrency; // minds affinity and control groups
    super(meeting, { name, ranks: [rank], localRank, cores, timeoutMs: Infinity });
    this.#meeting = meeting;
  }

  // deno-lint-ignore require-await -- so that errors reject
  async split(color: number | null, key = 0, options: GroupOptions = {}): Promise<LocalCommunicator | null> {
    this.requireOpen();
    requirePlace(color, key);
    return color === null ? null : this.#child(options);
  }

  // deno-lint-ignore require-await -- so that errors reject
  async subgroup(ranks: readonly number[], options: GroupOptions = {}): Promise<LocalCommunicator> {
    this.requireOpen();
    this.requireMembers(ranks);
    return this.#child(options);
  }

  protected override channel(): Uint8Array {
    return new Uint8Array(CHANNEL_BYTES);
  }

  protected override get peers(): MailboxPeers {
    return { wake: () => {}, check: () => this.#meeting.check() };
  }

  protected override release(): void {
    this.arena[Symbol.dispose]();
  }

  #child(options: GroupOptions): LocalCommunicator {
    const name = options.name ?? `${this.name}.0`;
    return new LocalCommunicator({ name, rank: this.ranks[0]!, localRank: this.localRank });
  }
}

/** A job of one rank. @throws {UnavailableError} If there are more. */
export function openLocal({ env }: EngineOptions): Promise<LocalCommunicator> {
  if (env.worldSize === 1) return Promise.resolve(new LocalCommunicator());
  throw new UnavailableError(`Cannot join a job of ${env.worldSize} ranks by backend local: it is for one rank alone`, {
    hint: "use the backend auto",
  });
}

/** Nobody to wait for. */
class LocalMeeting implements Meeting {
  readonly rank = 0;
  readonly size = 1;
  readonly reducers = new Reducers(undefined);
  readonly spinMs = 0;
  readonly #aside = new Uint8Array(ASIDE_BYTES);
  readonly #slots = [new Uint8Array(SLOT_BYTES), new Uint8Array(SLOT_BYTES)];
  parity: 0 | 1 = 0;
  #failure: CommunicatorError | undefined;

  get mine(): Uint8Array {
    return this.#slots[this.parity]!;
  }
  slot(_rank: number): Uint8Array {
    return this.mine;
  }
  aside(_rank: number): readonly [Uint8Array<ArrayBuffer>, Uint8Array<ArrayBuffer>] {
    return [this.#aside, this.#aside];
  }
  readonly nextParity = 0;
  flip(): void {
    this.parity = this.parity === 0 ? 1 : 0;
  }
  begin(_op: OperationCode, _timeoutMs: number): void {
    if (this.#failure !== undefined) throw this.#failure;
  }
  end(): void {}
  arrive(): void {}
  passed(): boolean {
    return true;
  }
  waitSync(): void {}
  meetSync(): void {}
  spin(): boolean {
    return true;
  }
  /** Only a message to itself that nobody receives can be waited for; the event loop goes round meanwhile. */
  sleep(ready: () => boolean): Promise<void> {
    return ready() ? Promise.resolve() : new Promise((resolve) => setTimeout(resolve, 1));
  }
  nap(ready: () => boolean): void {
    if (!ready()) this.abort(new CommunicatorError("A rank that is alone waits, blocking, for a message from itself"));
  }
  relax(): void {}
  check(): void {
    if (this.#failure !== undefined) throw this.#failure;
  }
  disagree(text: string): CommunicatorError {
    return this.#failure ??= new CollectiveMismatch(`This rank, which is alone, disagrees with itself: ${text}`);
  }
  abort(error: CommunicatorError): void {
    this.#failure ??= error;
  }
}
