/** A page in a real Chromium without a screen, spoken to by the DevTools protocol. */

/** A page. */
export interface Page extends AsyncDisposable {
  /** Calls a method of the protocol. */
  readonly call: (method: string, params?: Readonly<Record<string, unknown>>) => Promise<Record<string, unknown>>;
  /** The value of an expression in the page; of a promise, what it resolves to. */
  readonly evaluate: (expression: string) => Promise<unknown>;
  /** Goes to `url`, and waits until it has loaded. */
  readonly goTo: (url: string) => Promise<void>;
}

interface Message {
  readonly id?: number;
  readonly method?: string;
  readonly result?: Record<string, unknown>;
  readonly error?: { readonly message: string };
}

/** Starts `browser` with one page of `width` × `height`. @throws {Error} If it does not come up, with what it said. */
export async function openPage(browser: string, { width, height }: { width: number; height: number }): Promise<Page> {
  const profile = Deno.makeTempDirSync({ prefix: "shardwise-chromium-" });
  const process = new Deno.Command(browser, {
    args: [
      "--headless=new",
      "--no-sandbox",
      "--disable-gpu",
      "--no-first-run",
      "--remote-debugging-port=0",
      `--user-data-dir=${profile}`,
      `--window-size=${width},${height}`,
      "about:blank",
    ],
    stdin: "null",
    stdout: "null",
    stderr: "null",
  }).spawn();
  const port = await until(() => Number(Deno.readTextFileSync(`${profile}/DevToolsActivePort`).split("\n")[0]));
  const targets = await (await fetch(`http://127.0.0.1:${port}/json`)).json() as Record<string, string>[];
  const socket = new WebSocket(targets.find((t) => t.type === "page")!.webSocketDebuggerUrl!);
  await new Promise((resolve, reject) => {
    socket.onopen = resolve;
    socket.onerror = reject;
  });
  let last = 0;
  const waiting = new Map<number, (message: Message) => void>(), loads: (() => void)[] = [];
  socket.onmessage = ({ data }) => {
    const message = JSON.parse(data) as Message;
    if (message.id !== undefined) waiting.get(message.id)!(message);
    else if (message.method === "Page.loadEventFired") loads.splice(0).forEach((done) => done());
  };
  const call: Page["call"] = (method, params = {}) =>
    new Promise((resolve, reject) => {
      const id = ++last;
      waiting.set(
        id,
        ({ result, error }) => error ? reject(new Error(`${method}: ${error.message}`)) : resolve(result!),
      );
      socket.send(JSON.stringify({ id, method, params }));
    });
  await call("Page.enable");
  return {
    call,
    async evaluate(expression) {
      const { result, exceptionDetails } = await call("Runtime.evaluate", {
        expression,
        awaitPromise: true,
        returnByValue: true,
      });
      if (exceptionDetails) throw new Error(`The page: ${JSON.stringify(exceptionDetails)}`);
      return (result as { value: unknown }).value;
    },
    async goTo(url) {
      const loaded = new Promise<void>((resolve) => loads.push(resolve));
      await call("Page.navigate", { url });
      await loaded;
    },
    async [Symbol.asyncDispose]() {
      await call("Browser.close");
      await process.status;
      // Its children may write a little longer.
      await until(() => Deno.removeSync(profile, { recursive: true }));
    },
  };
}

/** What `look` gives, as soon as it gives something. */
async function until<T>(look: () => T): Promise<T> {
  for (let tries = 0;; tries++) {
    try {
      return look();
    } catch (error) {
      if (tries === 200) throw error;
      await new Promise((resolve) => setTimeout(resolve, 50));
    }
  }
}
