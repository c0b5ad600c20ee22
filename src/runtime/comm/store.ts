/**
 * Connects a rank to the store, by which ranks find each other. The launcher hosts the server:
 *
 *     using store = await connectStore({ addr: env.masterAddr, port: env.masterPort, token: env.storeToken, rank: env.rank });
 */
import { type Store, StoreClient, type StoreWaitOptions } from "../../core/store_client.ts";
import { StoreError } from "../../core/store_protocol.ts";

export { type Store, StoreClient, StoreError, type StoreWaitOptions };

/** Where the store is and who asks. */
export interface StoreAddress {
  readonly addr: string;
  readonly port: number;
  /** The job's token; the launcher passes it as SHARDWISE_STORE_TOKEN. */
  readonly token: string | undefined;
  /** The rank that connects; undefined for a launcher. */
  readonly rank?: number | undefined;
  /** How long to keep trying to connect, in ms; default 30,000. */
  readonly timeoutMs?: number;
}

/**
 * Connects to the store, trying again while nobody listens yet.
 *
 * @throws {StoreError} If no connection was made within `timeoutMs`, listing the last failure, or if the token was refused.
 */
export async function connectStore(where: StoreAddress): Promise<StoreClient> {
  const deadline = performance.now() + (where.timeoutMs ?? 30_000);
  let last: unknown;
  for (let pause = 20;; pause = Math.min(2 * pause, 1000)) {
    try {
      const conn = await Deno.connect({ hostname: where.addr, port: where.port });
      conn.setNoDelay(true);
      const store = new StoreClient(conn);
      await store.hello(where.token ?? "", where.rank === undefined ? "" : String(where.rank));
      return store;
    } catch (error) {
      if (error instanceof StoreError) throw error;
      last = error;
    }
    if (performance.now() + pause > deadline) {
      throw new StoreError(`Cannot connect to the store at ${where.addr}:${where.port}`, {
        cause: last,
        hint: "check that the launcher of node 0 runs and that its port can be reached",
      });
    }
    // Jitter, so that many ranks do not knock at the same moment.
    await new Promise((done) => setTimeout(done, pause * (0.5 + Math.random())));
  }
}
