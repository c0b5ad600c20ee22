/** `--health-port`: an HTTP page that says how the job is, for liveness probes and for people. */
import { UnavailableError } from "../src/core/errors.ts";

/** How a job is. */
export interface Health {
  readonly job: string;
  /** `starting` until there are ranks, `ending` once they are told to end. */
  readonly state: "starting" | "running" | "ending";
  readonly attempt: number;
  /** The ranks of this host that run. */
  readonly running: readonly number[];
  readonly elapsedMs: number;
}

/**
 * Answers `GET /` with {@linkcode Health} as JSON and 200: a launcher that answers lives. `GET /ready` is 503 unless ranks run.
 *
 * @throws {UnavailableError} If the port cannot be had.
 */
export function serveHealth(port: number, health: () => Health): Disposable & { readonly port: number } {
  let server: Deno.HttpServer<Deno.NetAddr>;
  const over = new AbortController();
  try {
    server = Deno.serve({ port, hostname: "0.0.0.0", signal: over.signal, onListen() {} }, (request) => {
      const { pathname } = new URL(request.url);
      if (request.method !== "GET" || (pathname !== "/" && pathname !== "/ready")) {
        return new Response("GET / or GET /ready\n", { status: 404 });
      }
      const now = health();
      return Response.json(now, { status: pathname === "/ready" && now.state !== "running" ? 503 : 200 });
    });
  } catch (cause) {
    throw new UnavailableError(`Cannot serve the job's health on port ${port}`, {
      cause,
      hint: "give --health-port another port, or 0 for a free one, which is printed",
    });
  }
  // At once: a client that takes its time must not hold the job's end.
  return { port: server.addr.port, [Symbol.dispose]: () => over.abort() };
}
