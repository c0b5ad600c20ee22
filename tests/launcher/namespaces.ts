/** Two hosts for tests, as network namespaces of this one with a cable between them: separate addresses, ports and loopbacks. */

/** One of them. */
export interface NamespaceHost {
  readonly addr: string;
  /** What starts a command there. */
  readonly enter: readonly string[];
}

/** Both. */
export interface TwoHosts extends Disposable {
  readonly hosts: readonly [NamespaceHost, NamespaceHost];
  /** Pulls the cable: what is sent is lost, and nobody is told. */
  readonly cut: () => void;
}

/** What is missing to make them; undefined if nothing is. */
export function namespacesMissing(): string | undefined {
  if (Deno.build.os !== "linux") return "network namespaces need Linux";
  const name = `shardwise-probe-${Deno.pid}`;
  const problem = ip(["netns", "add", name]);
  if (problem === undefined) ip(["netns", "del", name]);
  return problem;
}

/** Makes them. @throws {Error} If the kernel refuses; see {@linkcode namespacesMissing}. */
export function twoHosts(): TwoHosts {
  const names = ["a", "b"].map((side) => `shardwise-${Deno.pid}-${side}`) as [string, string];
  const close = () => names.forEach((name) => ip(["netns", "del", name]));
  const addrs = ["10.83.0.1", "10.83.0.2"] as const;
  const run = (...args: string[]) => {
    const problem = ip(args);
    if (problem === undefined) return;
    close();
    throw new Error(`Cannot make two hosts: ${problem}`);
  };
  for (const name of names) run("netns", "add", name);
  run("link", "add", "cable", "netns", names[0], "type", "veth", "peer", "name", "cable", "netns", names[1]);
  names.forEach((name, i) => {
    run("-n", name, "addr", "add", `${addrs[i]}/24`, "dev", "cable");
    run("-n", name, "link", "set", "lo", "up");
    run("-n", name, "link", "set", "cable", "up");
  });
  const host = (i: 0 | 1): NamespaceHost => ({ addr: addrs[i], enter: ["ip", "netns", "exec", names[i]] });
  return {
    hosts: [host(0), host(1)],
    cut: () => run("-n", names[1], "link", "set", "cable", "down"),
    [Symbol.dispose]: close,
  };
}

/** Runs `ip`; resolves to what is wrong, if anything is. */
function ip(args: readonly string[]): string | undefined {
  try {
    const { success, stderr } = new Deno.Command("ip", { args: [...args], stdin: "null" }).outputSync();
    return success ? undefined : `ip ${args.join(" ")}: ${new TextDecoder().decode(stderr).trim().split("\n")[0]}`;
  } catch {
    return "ip is not installed (apt-get install iproute2)";
  }
}
