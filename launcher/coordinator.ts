/** What a job needs from outside this host's ranks: its place among the nodes, its store, and the decision on how it ends. */
import { randomHex } from "../src/core/run_id.ts";
import type { AttemptResult, StopReason } from "./attempt.ts";
import { type AbortNotice, parseAbort } from "./abort_notice.ts";
import type { RankOutcome } from "./outcome.ts";
import { StoreServer } from "./store_server.ts";

/** This host's ranks in an attempt. */
export interface Placement {
  readonly jobId: string;
  readonly worldSize: number;
  /** The global rank of local rank 0. */
  readonly firstRank: number;
  readonly nodeRank: number;
  readonly nnodes: number;
  readonly masterAddr: string;
  readonly masterPort: number;
  readonly storeToken: string;
}

/** How an attempt ended for the whole job. */
export interface Verdict {
  readonly code: number;
  readonly restart: boolean;
  /** What ended the job, if that came from a node. */
  readonly notice?: AbortNotice;
}

/** The job's side of {@linkcode launch}. */
export interface Coordinator extends AsyncDisposable {
  /** Starts attempt number `attempt` together with all nodes. */
  readonly begin: (attempt: number) => Promise<Placement>;
  /** Calls `listener` when somebody elsewhere ends the job. */
  readonly onStop: (listener: (reason: StopReason) => void) => void;
  /** A rank here failed first. */
  readonly cause: (cause: RankOutcome) => void;
  /** A rank here ended with 0. */
  readonly done: (rank: number) => void;
  /** This host is told to end, with `code`, while it waits for the ends of the others. */
  readonly interrupt: (code: number) => void;
  /** All ranks here have ended; `code` is what that means here, and `restart` whether this host starts again if the job has failed. */
  readonly conclude: (attempt: number, result: AttemptResult, here: Verdict) => Promise<Verdict>;
}

/** The coordinator of a job on one host: a store on the loopback interface. */
export class LocalCoordinator implements Coordinator {
  readonly #server: StoreServer;
  readonly #runId: string;
  readonly #nproc: number;
  #token = "";
  #listener: ((reason: StopReason) => void) | undefined;

  /** `port` 0 takes a free one, and so does a port that cannot be had: on one host nobody else has to know it. */
  constructor(runId: string, nproc: number, options: { port: number; say: (line: string) => void }) {
    this.#runId = runId;
    this.#nproc = nproc;
    const listen = (port: number) =>
      new StoreServer({
        hostname: "127.0.0.1",
        port,
        events: { onAbort: (text) => this.#listener?.(stopOf(parseAbort(text))) },
      });
    try {
      this.#server = listen(options.port);
    } catch (error) {
      if (options.port === 0) throw error;
      this.#server = listen(0);
      const why = error instanceof Error ? error.message : String(error);
      options.say(`the store takes port ${this.#server.port}, as ${options.port} cannot be had: ${why}`);
    }
  }

  begin = (attempt: number): Promise<Placement> => {
    if (attempt > 0) {
      // What the last attempt's ranks wrote, and they themselves, mean nothing to this one.
      this.#server.revoke(this.#token);
      this.#server.state.keepOnly("job/");
      this.#server.beginAttempt();
    }
    this.#token = randomHex(16);
    this.#server.allow(this.#token);
    return Promise.resolve({
      jobId: this.#runId,
      worldSize: this.#nproc,
      firstRank: 0,
      nodeRank: 0,
      nnodes: 1,
      masterAddr: "127.0.0.1",
      masterPort: this.#server.port,
      storeToken: this.#token,
    });
  };

  onStop = (listener: (reason: StopReason) => void): void => {
    this.#listener = listener;
  };

  cause = (cause: RankOutcome): void => this.#server.pushAbort(JSON.stringify({ rank: cause.rank, code: cause.code }));

  done = (rank: number): void => this.#server.pushLeft(rank);

  interrupt = (): void => {};

  conclude = (_attempt: number, _result: AttemptResult, here: Verdict): Promise<Verdict> =>
    Promise.resolve({ ...here, restart: here.restart && here.code !== 0 });

  [Symbol.asyncDispose](): Promise<void> {
    this.#server[Symbol.dispose]();
    return Promise.resolve();
  }
}

/** An abort as a reason to stop. */
export function stopOf(notice: AbortNotice): StopReason {
  return { kind: "abort", notice };
}
