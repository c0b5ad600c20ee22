/** Where launchers of several hosts meet: a TCP address, or a folder that all of them see. */
import { UsageError } from "../src/core/errors.ts";
import { fileSafe, randomHex } from "../src/core/run_id.ts";
import { StoreClient } from "../src/core/store_client.ts";
import { StoreError } from "../src/core/store_protocol.ts";
import { readText } from "./host.ts";
import type { NodePlace } from "./node_place.ts";
import { type StoreEvents, StoreServer } from "./store_server.ts";

/** An open meeting place. */
export interface Rendezvous {
  readonly client: StoreClient;
  /** Only on node 0. */
  readonly server: StoreServer | undefined;
  readonly addr: string;
  readonly port: number;
  readonly token: string;
  readonly close: () => Promise<void>;
}

/** How to open one. */
export interface RendezvousOptions extends NodePlace {
  readonly events: StoreEvents;
  /** `performance.now()` by which it has to be open. */
  readonly deadline: number;
  readonly say: (line: string) => void;
}

/** All interfaces: by both families where the host has IPv6, as some clusters give pods no other addresses. */
const EVERYWHERE = ["::", "0.0.0.0"];

interface Address {
  readonly addrs: readonly string[];
  readonly port: number;
  readonly token: string;
}

/** Opens the meeting place of `options.rdzv`. @throws {UsageError} If the URL is neither tcp:// nor file://. @throws {StoreError} If nobody answers in time. */
export async function openRendezvous(options: RendezvousOptions): Promise<Rendezvous> {
  const url = URL.canParse(options.rdzv ?? "") ? new URL(options.rdzv!) : undefined;
  if (url?.protocol === "tcp:" && url.hostname !== "" && url.port !== "") return await byTcp(options, url);
  if (url?.protocol === "file:") return await byFile(options, decodeURIComponent(url.pathname));
  const why = url?.protocol !== "tcp:" && url !== undefined
    ? `${url.protocol}// is no way to meet`
    : url?.port === ""
    ? "it names no port"
    : "it is no address with a port from 1 to 65535";
  throw new UsageError(`Cannot meet at ${JSON.stringify(options.rdzv)}: ${why}`, {
    hint: "give tcp://host:port or file:///shared/folder",
  });
}

async function byTcp(options: RendezvousOptions, url: URL): Promise<Rendezvous> {
  const host = url.hostname.replace(/^\[|\]$/g, ""), port = Number(url.port);
  const token = options.token ?? "shardwise";
  if (options.token === undefined && options.nodeRank === 0) {
    options.say(
      `anyone who reaches ${host}:${port} can join this job: give all nodes the same --token (or SHARDWISE_TOKEN)`,
    );
  }
  // A name of the loopback interface keeps the store there; any other needs every interface.
  const loopback = /^(127\.|localhost$|::1$)/.test(host), v6 = host.includes(":");
  const here = v6 ? "::1" : "127.0.0.1";
  const server = options.nodeRank === 0 ? listen(loopback ? [here] : EVERYWHERE, port, options.events) : undefined;
  server?.allow(token);
  try {
    const conn = await knock([server === undefined ? host : here], port, options);
    return { ...rendezvous(conn, server), addr: host, port, token, close: () => closeAll(conn, server) };
  } catch (error) {
    server?.[Symbol.dispose]();
    throw error;
  }
}

/** Node 0 takes a free port and writes where it is; the others read that. */
async function byFile(options: RendezvousOptions, folder: string): Promise<Rendezvous> {
  const path = `${folder}/shardwise-rdzv-${fileSafe(options.token ?? "job")}.json`;
  if (options.nodeRank === 0) {
    makeFolder(folder);
    const server = listen(EVERYWHERE, 0, options.events);
    const token = randomHex(16);
    server.allow(token);
    const addrs = [
      Deno.hostname(),
      ...Deno.networkInterfaces().map((i) => i.address).filter((a) => !a.startsWith("fe80")),
    ];
    // Renamed into place, so that nobody reads half of it. It holds the token: for this user only.
    Deno.writeTextFileSync(`${path}.new`, JSON.stringify({ addrs, port: server.port, token } satisfies Address), {
      mode: 0o600,
    });
    Deno.renameSync(`${path}.new`, path);
    const conn = await knock(["127.0.0.1"], server.port, options);
    const close = async () => {
      if (readText(path)?.includes(token)) Deno.removeSync(path);
      await closeAll(conn, server);
    };
    const addr = Deno.networkInterfaces().find((i) => i.family === "IPv4" && !i.address.startsWith("127."))?.address ??
      "127.0.0.1";
    return { ...rendezvous(conn, server), addr, port: server.port, token, close };
  }
  for (let said = performance.now();;) {
    const found = readText(path);
    if (found !== undefined) {
      const address = JSON.parse(found) as Address;
      // The file may be of an earlier job; then nobody listens, and a newer one will follow.
      const conn = await knock(address.addrs, address.port, {
        ...options,
        deadline: performance.now(),
      }).catch(() => undefined);
      if (conn !== undefined) {
        const addr = (conn.remoteAddr as Deno.NetAddr).hostname;
        return {
          ...rendezvous(conn, undefined),
          addr,
          port: address.port,
          token: address.token,
          close: () => closeAll(conn, undefined),
        };
      }
    }
    if (performance.now() > options.deadline) {
      throw new StoreError(`Cannot meet in ${folder}: node 0 wrote no address that answers into ${path}`, {
        hint: "see whether node 0 runs, and whether all nodes see this folder",
      });
    }
    if (performance.now() - said > 10_000) {
      options.say(`waiting for ${path} from node 0`);
      said = performance.now();
    }
    await new Promise((done) => setTimeout(done, 100));
  }
}

/** Listens at the first of `hostnames` that this host has. */
function listen(hostnames: readonly string[], port: number, events: StoreEvents): StoreServer {
  const [hostname, ...others] = hostnames;
  try {
    return new StoreServer({ hostname: hostname!, port, events });
  } catch (cause) {
    if (others.length > 0) return listen(others, port, events);
    const hint = cause instanceof Deno.errors.PermissionDenied
      ? "ports below 1024 are for root: give another one"
      : "another job uses this port: give another one, or use --rdzv file:///shared/folder, which takes a free one";
    throw new StoreError(`Cannot host the store on port ${port}: ${cause instanceof Error ? cause.message : cause}`, {
      hint,
    });
  }
}

function makeFolder(folder: string): void {
  try {
    Deno.mkdirSync(folder, { recursive: true });
    const probe = `${folder}/shardwise-probe-${randomHex(4)}`;
    Deno.writeTextFileSync(probe, "");
    Deno.removeSync(probe);
  } catch (cause) {
    throw new StoreError(`Cannot meet in ${folder}: node 0 cannot write there`, {
      cause,
      hint: "give --rdzv file:///… a folder that all nodes see and this user can write",
    });
  }
}

/** Tries the addresses in turn until one takes the connection: names may resolve before the host listens. */
async function knock(
  addrs: readonly string[],
  port: number,
  options: Pick<RendezvousOptions, "deadline" | "say">,
): Promise<Deno.TcpConn> {
  const failures = new Map<string, string>();
  let said = performance.now();
  for (let pause = 50;; pause = Math.min(pause * 2, 1000)) {
    for (const hostname of addrs) {
      try {
        const conn = await Deno.connect({ hostname, port });
        conn.setNoDelay(true);
        return conn;
      } catch (error) {
        failures.set(hostname, error instanceof Error ? error.message : String(error));
      }
    }
    const tried = [...failures].map(([addr, why]) => `${addr}:${port} (${why})`).join(", ");
    if (performance.now() + pause > options.deadline) {
      throw new StoreError(`Cannot reach the launcher of node 0; tried ${tried}`, {
        hint: "see whether node 0 runs and its port can be reached",
      });
    }
    if (performance.now() - said > 10_000) {
      options.say(`still trying to reach node 0 at ${tried}`);
      said = performance.now();
    }
    await new Promise((done) => setTimeout(done, pause * (0.5 + Math.random())));
  }
}

function rendezvous(conn: Deno.TcpConn, server: StoreServer | undefined): Pick<Rendezvous, "client" | "server"> {
  return { client: new StoreClient(conn), server };
}

function closeAll(conn: Deno.TcpConn, server: StoreServer | undefined): Promise<void> {
  try {
    conn.close();
  } catch {
    // It is closed.
  }
  server?.[Symbol.dispose]();
  return Promise.resolve();
}
