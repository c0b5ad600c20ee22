/** A headless Chromium for tests, spoken to over its debugging protocol. */

/** A page in the browser. */
export interface Page extends AsyncDisposable {
  /** The value of a JavaScript expression in the page, by JSON. */
  evaluate<T>(expression: string): Promise<T>;
  /** A key, pressed and released where the focus is. */
  press(key: string): Promise<void>;
  /** What scripts in the page have thrown. */
  readonly errors: readonly string[];
}

/** The browser's path, or undefined, after saying so, where there is none. */
export async function browserOrSkip(): Promise<string | undefined> {
  for (const name of ["chromium", "chromium-browser", "google-chrome"]) {
    try {
      const { success } = await new Deno.Command(name, { args: ["--version"], stdout: "null", stderr: "null" })
        .output();
      if (success) return name;
    } catch {
      // Not this one.
    }
  }
  // deno-lint-ignore no-console
  console.log("skipped: there is no chromium");
  return undefined;
}

/** Opens the file at `path` in a browser of its own. */
export async function openPage(browser: string, path: string): Promise<Page> {
  const profile = Deno.makeTempDirSync({ prefix: "shardwise-browser-" });
  const process = new Deno.Command(browser, {
    args: [
      "--headless",
      "--no-sandbox",
      "--disable-gpu",
      "--disable-dev-shm-usage",
      "--no-first-run",
      `--user-data-dir=${profile}`,
      "--remote-debugging-port=0",
      "--window-size=1400,900",
      "about:blank",
    ],
    stdin: "null",
    stdout: "null",
    stderr: "null",
  }).spawn();
  const end = async () => {
    try {
      process.kill("SIGKILL");
    } catch {
      // It has ended.
    }
    await process.status;
    // The browser's helper processes outlive it by a moment and still write there.
    await until(() => Deno.removeSync(profile, { recursive: true }));
  };
  try {
    const port = await until(() => {
      const [, found] = /^(\d+)\n/.exec(Deno.readTextFileSync(`${profile}/DevToolsActivePort`)) ?? [];
      return found ?? fail("the browser has not written its port yet");
    });
    const url = await until(async () => {
      const targets = await (await fetch(`http://127.0.0.1:${port}/json`)).json() as {
        type: string;
        webSocketDebuggerUrl: string;
      }[];
      return targets.find((t) => t.type === "page")!.webSocketDebuggerUrl;
    });
    const socket = new WebSocket(url);
    await new Promise((resolve, reject) => {
      socket.onopen = resolve;
      socket.onerror = reject;
    });
    const waiting = new Map<number, (result: Record<string, unknown>) => void>();
    const errors: string[] = [];
    let loaded = () => {};
    let next = 1;
    socket.onmessage = ({ data }) => {
      const message = JSON.parse(data);
      if (message.method === "Page.loadEventFired") loaded();
      if (message.method === "Runtime.exceptionThrown") {
        errors.push(message.params.exceptionDetails.exception?.description ?? message.params.exceptionDetails.text);
      }
      waiting.get(message.id)?.(message.result ?? {});
      waiting.delete(message.id);
    };
    const send = (method: string, params: Record<string, unknown> = {}) =>
      new Promise<Record<string, unknown>>((resolve) => {
        waiting.set(next, resolve);
        socket.send(JSON.stringify({ id: next++, method, params }));
      });
    await send("Page.enable");
    await send("Runtime.enable");
    const load = new Promise<void>((resolve) => loaded = resolve);
    await send("Page.navigate", { url: `file://${path}` });
    await load;
    return {
      errors,
      async evaluate<T>(expression: string): Promise<T> {
        const { result } = await send("Runtime.evaluate", { expression, returnByValue: true, awaitPromise: true });
        return (result as { value: T }).value;
      },
      async press(key) {
        const text = key === "Enter" ? "\r" : key.length === 1 ? key : undefined;
        await send("Input.dispatchKeyEvent", { type: "keyDown", key, code: key, ...(text ? { text } : {}) });
        await send("Input.dispatchKeyEvent", { type: "keyUp", key, code: key });
      },
      async [Symbol.asyncDispose]() {
        const closed = new Promise((resolve) => socket.onclose = resolve);
        await send("Browser.close");
        await closed;
        await end();
      },
    };
  } catch (error) {
    await end();
    throw error;
  }
}

function fail(message: string): never {
  throw new Error(message);
}

/** Tries until it works; the browser may take long on a busy machine. */
async function until<T>(attempt: () => T | Promise<T>): Promise<T> {
  const deadline = Date.now() + 120_000;
  for (;;) {
    try {
      return await attempt();
    } catch (error) {
      if (Date.now() > deadline) throw error;
      await new Promise((resolve) => setTimeout(resolve, 50));
    }
  }
}
