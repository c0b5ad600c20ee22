/**
 * A job on several hosts. Node 0's launcher hosts the store; every launcher registers there, learns which ranks are its own, hears at
 * once when another node fails, and waits at the end for node 0's verdict: finished, failed, or start again.
 *
 * Keys: `job/node/K` who node K is, `job/start/A` how attempt A is laid out, `job/end/A/K` how it ended on node K, `job/verdict/A`.
 */
import { ShardwiseError, UsageError } from "../src/core/errors.ts";
import { EXIT } from "../src/core/exit_codes.ts";
import { randomHex } from "../src/core/run_id.ts";
import { StoreClient } from "../src/core/store_client.ts";
import { field, StoreError, text } from "../src/core/store_protocol.ts";
import { type AbortNotice, noticeOf, parseAbort } from "./abort_notice.ts";
import { type AttemptResult, isStopped, type StopReason } from "./attempt.ts";
import { type Coordinator, type Placement, stopOf, type Verdict } from "./coordinator.ts";
import type { NodePlace } from "./node_place.ts";
import { exitCodeOf, type RankOutcome } from "./outcome.ts";
import { causeLine } from "./report.ts";
import { openRendezvous, type Rendezvous } from "./rendezvous.ts";
import type { StoreServer } from "./store_server.ts";

/** Nodes that did not meet, or lost each other. */
export class RendezvousError extends ShardwiseError {}

/** What this node brings. */
export interface NodeOptions {
  readonly place: NodePlace;
  readonly runId: string;
  readonly host: string;
  readonly nproc: number;
  readonly startupTimeoutMs: number;
  readonly graceMs: number;
  /** Says something to the user, as while it waits. */
  readonly say: (line: string) => void;
}

interface NodeInfo {
  readonly instance: string;
  readonly host: string;
  readonly nproc: number;
  readonly nnodes: number;
}

const MEET_HINT =
  "see whether their launchers run with the same --rdzv, --nnodes and --token, or give a longer --startup-timeout";
const HEARTBEAT_MS = 5_000;
const LOST_AFTER_MS = 15_000;
const FAREWELL_MS = 30_000;
/** How often node 0 says whom it waits for at the end. */
const STILL_RUNNING_MS = 30_000;

/** Connects this node with the others. @throws {RendezvousError} If they do not meet in time, naming who is missing. */
export async function joinNodes(options: NodeOptions): Promise<Coordinator> {
  const { place } = options;
  const gone = new Set<number>();
  const events = {
    onGone: (who: string) => {
      const node = /^node:(\d+)$/.exec(who);
      if (node !== null) gone.add(Number(node[1]));
      if (node !== null) coordinator?.lost(Number(node[1]));
    },
  };
  const deadline = performance.now() + options.startupTimeoutMs;
  const meeting = await openRendezvous({ ...place, events, deadline, say: options.say });
  let coordinator: NodeCoordinator | undefined;
  // Node 0 says why nobody starts; what this node waits for will not come then.
  let told: string | undefined;
  meeting.client.onAbort((reason) => {
    const { message, code } = parseAbort(reason);
    if (coordinator !== undefined || code !== EXIT.rendezvous) return;
    told = message;
    meeting.client[Symbol.dispose]();
  });
  try {
    await meeting.client.hello(meeting.token, `node:${place.nodeRank}`);
    const infos = await register(options, meeting.client, deadline);
    coordinator = new NodeCoordinator(options, meeting, infos);
    for (const node of gone) coordinator.lost(node);
    return coordinator;
  } catch (error) {
    if (error instanceof RendezvousError && meeting.server !== undefined) {
      meeting.server.pushAbort(JSON.stringify({ message: error.message, code: EXIT.rendezvous } satisfies AbortNotice));
      await meeting.server.waitForFarewell("node:", 1, 1_000);
    }
    await meeting.close();
    if (told !== undefined && !(error instanceof RendezvousError)) throw new RendezvousError(told, { hint: MEET_HINT });
    throw error instanceof StoreError
      ? new RendezvousError(error.message, { hint: "see whether all nodes use the same --token" })
      : error;
  }
}

async function register(options: NodeOptions, client: StoreClient, deadline: number): Promise<NodeInfo[]> {
  const { nodeRank, nnodes } = options.place;
  const mine: NodeInfo = { instance: randomHex(8), host: options.host, nproc: options.nproc, nnodes };
  const key = (node: number) => `job/node/${node}`;
  const taken = parse<NodeInfo>(await client.compareSet(key(nodeRank), null, field(JSON.stringify(mine))));
  if (taken.instance !== mine.instance) {
    throw new RendezvousError(`Cannot join as node ${nodeRank}: ${taken.host} already is node ${nodeRank}`, {
      hint: "give every host its own --node-rank, from 0",
    });
  }
  const waiting = performance.now();
  for (;;) {
    const left = deadline - performance.now();
    const nodes = Array.from({ length: nnodes }, (_, node) => node);
    try {
      await client.wait(nodes.map(key), { timeoutMs: Math.max(1, Math.min(left, 10_000)) });
      const infos = await Promise.all(nodes.map(async (node) => parse<NodeInfo>(await client.get(key(node)))));
      const other = infos.findIndex((info) => info.nnodes !== nnodes);
      if (other >= 0) {
        throw new RendezvousError(
          `Cannot start: node ${nodeRank} was told of ${nnodes} nodes, node ${other} of ${infos[other]!.nnodes}`,
          { hint: "give the same --nnodes everywhere" },
        );
      }
      return infos;
    } catch (error) {
      if (!(error instanceof StoreError)) throw error;
      const present = await client.list("job/node/");
      const missing = nodes.filter((node) => !present.includes(key(node)));
      if (performance.now() < deadline) {
        options.say(
          `waiting for node ${missing.join(", ")} of ${nnodes} for ${
            Math.round((performance.now() - waiting) / 1000)
          } s`,
        );
        continue;
      }
      throw new RendezvousError(
        `Cannot start: node ${missing.join(", ")} of ${nnodes} did not come within ${
          Number((options.startupTimeoutMs / 1000).toFixed(1))
        } s`,
        { hint: MEET_HINT },
      );
    }
  }
}

class NodeCoordinator implements Coordinator {
  readonly #options: NodeOptions;
  readonly #meeting: Rendezvous;
  readonly #client: StoreClient;
  readonly #server: StoreServer | undefined;
  readonly #infos: readonly NodeInfo[];
  readonly #heart: ReturnType<typeof setInterval>;
  #listener: ((reason: StopReason) => void) | undefined;
  #notice: AbortNotice | undefined;
  #token = "";
  #over = false;
  #unreachable = false;

  constructor(options: NodeOptions, meeting: Rendezvous, infos: readonly NodeInfo[]) {
    this.#options = options;
    this.#meeting = meeting;
    this.#client = meeting.client;
    this.#server = meeting.server;
    this.#infos = infos;
    this.#client.onAbort((reason) => this.#hear(parseAbort(reason)));
    void this.#client.ended.then(() => this.#loseStore());
    let beating = performance.now();
    this.#heart = setInterval(() => {
      this.#client.ping().then(() => beating = performance.now(), () => {});
      if (performance.now() - beating > LOST_AFTER_MS) this.#loseStore();
      this.#server?.dropSilent("node:", LOST_AFTER_MS);
    }, HEARTBEAT_MS);
  }

  begin = async (attempt: number): Promise<Placement> => {
    const { place, runId, startupTimeoutMs } = this.#options;
    const { nodeRank, nnodes } = place;
    const key = `job/start/${attempt}`;
    this.#notice = undefined;
    if (this.#server !== undefined) {
      if (attempt > 0) this.#server.revoke(this.#token);
      this.#server.state.keepOnly("job/");
      this.#server.beginAttempt();
      this.#token = randomHex(16);
      this.#server.allow(this.#token);
      await this.#client.set(key, field(JSON.stringify({ jobId: runId, token: this.#token })));
    }
    const start = parse<{ jobId: string; token: string }>(await this.#client.get(key, { timeoutMs: startupTimeoutMs }));
    const sizes = this.#infos.map((info) => info.nproc);
    const sum = (list: readonly number[]) => list.reduce((a, b) => a + b, 0);
    return {
      jobId: start.jobId,
      worldSize: sum(sizes),
      firstRank: sum(sizes.slice(0, nodeRank)),
      nodeRank,
      nnodes,
      masterAddr: this.#meeting.addr,
      masterPort: this.#meeting.port,
      storeToken: start.token,
    };
  };

  onStop = (listener: (reason: StopReason) => void): void => {
    this.#listener = listener;
    if (this.#notice !== undefined) listener(stopOf(this.#notice));
  };

  cause = (cause: RankOutcome): void => {
    const notice = noticeOf(cause, exitCodeOf(cause));
    this.#client.abort(JSON.stringify(notice)).catch(() => {});
  };

  done = (rank: number): void => this.#server?.pushLeft(rank);

  interrupt = (code: number): void => {
    const message = `the launcher of node ${this.#options.place.nodeRank} (${this.#options.host}) was told to end`;
    this.#client.abort(JSON.stringify({ message, code, stopped: true } satisfies AbortNotice)).catch(() => {});
  };

  /** Node `node`'s launcher is gone before the job's end. */
  lost(node: number): void {
    if (this.#over || this.#server === undefined) return;
    const host = this.#infos[node]?.host ?? "unknown host";
    const notice: AbortNotice = {
      message: `the launcher of node ${node} (${host}) was lost`,
      code: EXIT.launcherLost,
      host,
    };
    this.#server.pushAbort(JSON.stringify(notice));
  }

  conclude = async (attempt: number, result: AttemptResult, here: Verdict): Promise<Verdict> => {
    if (this.#unreachable) {
      return {
        code: EXIT.launcherLost,
        restart: false,
        ...(this.#notice === undefined ? {} : { notice: this.#notice }),
      };
    }
    const { nodeRank, nnodes } = this.#options.place;
    const end = (node: number) => `job/end/${attempt}/${node}`, verdictKey = `job/verdict/${attempt}`;
    try {
      // A node whose ranks did not end as asked still has to tell the others, if it was not told by them.
      if (here.code !== 0 && this.#notice === undefined) {
        const message = result.cause === undefined
          ? `node ${nodeRank} (${this.#options.host}): ${causeLine(result)}`
          : noticeOf(result.cause, here.code).message;
        const stopped = result.cause === undefined && isStopped(result.stop);
        await this.#client.abort(JSON.stringify({ message, code: here.code, stopped } satisfies AbortNotice));
      }
      await this.#client.set(end(nodeRank), field(JSON.stringify(here)));
      if (this.#server !== undefined) {
        const verdict = await this.#decide(Array.from({ length: nnodes }, (_, node) => end(node)), here);
        this.#over = !verdict.restart;
        await this.#client.set(verdictKey, field(JSON.stringify(verdict)));
        return verdict;
      }
      const verdict = parse<Verdict>(await this.#client.get(verdictKey, { timeoutMs: 0x7fffffff }));
      this.#over = !verdict.restart;
      return verdict;
    } catch {
      // Node 0 is gone. What happened here still counts.
      return { code: here.code !== 0 ? here.code : EXIT.launcherLost, restart: false };
    }
  };

  async [Symbol.asyncDispose](): Promise<void> {
    this.#over = true;
    clearInterval(this.#heart);
    if (this.#server !== undefined) await this.#server.waitForFarewell("node:", 1, 2_000);
    await this.#meeting.close();
  }

  /** Node 0 waits for all ends; after a failure not for ever, since a node may be gone. */
  async #decide(ends: readonly string[], here: Verdict): Promise<Verdict> {
    const all = this.#client.wait(ends, { timeoutMs: 0x7fffffff });
    all.catch(() => {});
    let said = performance.now();
    while (this.#notice === undefined) {
      if (performance.now() - said > STILL_RUNNING_MS) {
        said = performance.now();
        const running = ends.flatMap((end, node) => this.#server!.state.get(end) === undefined ? [node] : []);
        this.#options.say(`the ranks of node ${running.join(", ")} still run, those of the others have ended`);
      }
      const done = await Promise.race([
        all.then(() => true),
        new Promise<false>((wake) => setTimeout(() => wake(false), 100)),
      ]);
      if (done) break;
    }
    if (this.#notice !== undefined) {
      const { promise, resolve } = Promise.withResolvers<void>();
      const lost = this.#notice.code === EXIT.launcherLost;
      const timer = setTimeout(resolve, lost ? 1000 : this.#options.graceMs + FAREWELL_MS);
      await Promise.race([all, promise]);
      clearTimeout(timer);
      // The node whose rank failed knows whether starting again may help, and each node whether it was told to end.
      const known = ends.map((end) => this.#server!.state.get(end)).filter((end) => end !== undefined);
      const restart = !lost && known.every((end) => parse<Verdict>(end).restart);
      return { code: this.#notice.code, restart, notice: this.#notice };
    }
    return { ...here, restart: false };
  }

  #hear(notice: AbortNotice): void {
    if (this.#notice !== undefined) return;
    this.#notice = notice;
    this.#listener?.(stopOf(notice));
  }

  #loseStore(): void {
    if (this.#over || this.#unreachable) return;
    this.#unreachable = true;
    const host = this.#infos[0]?.host ?? "unknown host";
    this.#hear({ message: `the launcher of node 0 (${host}) was lost`, code: EXIT.launcherLost, host });
    this.#client[Symbol.dispose]();
  }
}

function parse<T>(bytes: Uint8Array): T {
  try {
    return JSON.parse(text(bytes)) as T;
  } catch (cause) {
    throw new UsageError("Cannot read what another node wrote: it is no JSON", {
      cause,
      hint: "run the same version of Shardwise on all nodes",
    });
  }
}
