/**
 * How the ranks of a group meet before NCCL joins them: each tells who it is and on which GPU, the first one makes the group's
 * name, and all see all. By the job's store where there is one, else through shared memory.
 */
import { UnavailableError } from "../../../core/errors.ts";
import type { LaunchEnv } from "../../../core/launch_env.ts";
import type { Store } from "../../../core/store_client.ts";
import { StoreError } from "../../../core/store_protocol.ts";
import { RendezvousError } from "../errors.ts";
import { ShmCommunicator } from "../shm_communicator.ts";
import type { NcclProcess } from "./nccl_process.ts";

/** What a rank tells of itself. */
export interface Card {
  /** The host, and the GPU's own number there. */
  readonly host: string;
  readonly gpu: string;
  readonly ncclVersion: number;
  /** The `ncclUniqueId`, from the first rank of the group. */
  readonly id: string | undefined;
}

/** Who meets. */
export interface MeetingOptions {
  /** The group's name, which no other group of the job has. */
  readonly name: string;
  readonly rank: number;
  /** The members as ranks of the job. */
  readonly ranks: readonly number[];
  readonly timeoutMs: number;
}

/** Tells `own` to all members; resolves to all their cards, by rank. @throws {RendezvousError} If some do not come. */
export type Meet = (own: Card, o: MeetingOptions) => Promise<Card[]>;

/** By the store that the launcher hosts. */
export function meetByStore(store: Store, attempt: number): Meet {
  return async (own, o) => {
    const key = (rank: number) => `nccl/${attempt}/${o.name}/${rank}`;
    await store.set(key(o.rank), new TextEncoder().encode(JSON.stringify(own)));
    const cards = o.ranks.map(async (_, rank) => {
      const bytes = await store.get(key(rank), { timeoutMs: o.timeoutMs });
      return JSON.parse(new TextDecoder().decode(bytes)) as Card;
    });
    const found = await Promise.allSettled(cards);
    const missing = o.ranks.filter((_, rank) => found[rank]!.status === "rejected");
    if (missing.length === 0) return found.map((f) => (f as PromiseFulfilledResult<Card>).value);
    const cause = found.find((f) => f.status === "rejected")?.reason;
    if (!(cause instanceof StoreError)) throw cause;
    throw new RendezvousError(
      `Rank ${o.ranks[o.rank]} waited ${(o.timeoutMs / 1000).toFixed(1)} s for the ranks of "${o.name}": missing ${
        missing.join(", ")
      }`,
      { hint: "see what the missing ranks print", cause },
    );
  };
}

/** Through shared memory, for jobs of one host whose launcher has no store. */
export function meetByMemory(process: NcclProcess): Meet {
  const { libc, window, reducers, flight, env, cores } = process;
  return async (own, o) => {
    const { runId, localRank, localWorldSize } = env;
    const host = { libc, window, reducers, flight, runId, localRank, localWorldSize, cores };
    await using side = await ShmCommunicator.join(host, {
      name: `nccl-meet-${o.name}`,
      rank: o.rank,
      ranks: o.ranks,
      timeoutMs: o.timeoutMs,
    });
    const cards = await side.objects.allGather(own);
    await side.close();
    return cards;
  };
}

/** What NCCL would find out late, or never. @throws {UnavailableError} @throws {RendezvousError} */
export function requireFit(cards: readonly Card[], ranks: readonly number[]): void {
  const seen = new Map<string, number>();
  cards.forEach(({ host, gpu }, r) => {
    const other = seen.get(`${host} ${gpu}`);
    if (other !== undefined) {
      throw new UnavailableError(
        `Cannot join rank ${ranks[other]} and rank ${ranks[r]} by NCCL: both are on GPU ${gpu} of ${host}`,
        { hint: "give every rank a GPU of its own (LOCAL_RANK, CUDA_VISIBLE_DEVICES), or use the backend shm" },
      );
    }
    seen.set(`${host} ${gpu}`, r);
  });
  const versions = new Set(cards.map((c) => c.ncclVersion));
  if (versions.size === 1) return;
  const text = cards.map((c, r) => `rank ${ranks[r]} has ${c.ncclVersion}`).join(", ");
  throw new RendezvousError(`Cannot join ranks of different NCCL versions: ${text}`, {
    hint: "install the same NCCL on all hosts; shardwise doctor shows which file each one opens",
  });
}

/** The meeting that the job offers. @throws {UnavailableError} If hosts have no store to meet at. */
export function chooseMeet(process: NcclProcess, store: Store | undefined): Meet {
  const { env } = process;
  if (store !== undefined) return meetByStore(store, env.attempt);
  if (env.localWorldSize === env.worldSize) return meetByMemory(process);
  throw new UnavailableError(
    `Cannot join ${env.nnodes} hosts by NCCL: ${describe(env)} started the ranks, and offers no store to meet at`,
    { hint: "start them with shardwise's launcher, or use the backend mpi" },
  );
}

function describe(env: LaunchEnv): string {
  return env.scheme === "single" ? "nobody" : env.scheme;
}
