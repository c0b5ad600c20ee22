/**
 * A private Slurm for tests: one controller and two nodes of 8 pretended CPUs each, on ports of their own and without munge. Both nodes
 * are this host, under two of its names, since ranks look up the name of the first node.
 */

/** A running Slurm. */
export interface Slurm extends AsyncDisposable {
  /** What commands such as srun need to find it. */
  readonly env: Record<string, string>;
  /** The names of its nodes. */
  readonly nodes: readonly string[];
}

/** What is missing to run one; undefined if nothing is. */
export function slurmMissing(): string | undefined {
  for (const tool of ["slurmctld", "slurmd", "srun", "sbatch"]) {
    if (which(tool) === undefined) return `${tool} is not installed (apt-get install slurm-wlm)`;
  }
  return Deno.uid() === 0 ? undefined : "slurmd needs root";
}

/** The path of a program, if it is installed. */
export function which(name: string): string | undefined {
  for (const dir of ["/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin"]) {
    try {
      if (Deno.statSync(`${dir}/${name}`).isFile) return `${dir}/${name}`;
    } catch {
      // Look in the next folder.
    }
  }
  return undefined;
}

/** Starts one. @throws {Error} If its nodes do not come up within 20 s. */
export async function startSlurm(): Promise<Slurm> {
  const dir = await Deno.makeTempDir({ prefix: "slurm-" });
  const host = Deno.hostname().split(".")[0]!;
  const nodes = [host, "localhost"];
  const ports = freePorts(1 + nodes.length);
  const conf = `${dir}/slurm.conf`;
  await Deno.writeTextFile(
    conf,
    `ClusterName=test
SlurmctldHost=${host}(127.0.0.1)
AuthType=auth/none
CredType=cred/none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SlurmUser=root
SlurmdUser=root
SlurmctldPort=${ports[0]}
StateSaveLocation=${dir}/state
SlurmdSpoolDir=${dir}/spool_%n
SlurmctldPidFile=${dir}/ctld.pid
SlurmdPidFile=${dir}/slurmd_%n.pid
SlurmctldLogFile=${dir}/ctld.log
SlurmdLogFile=${dir}/slurmd_%n.log
SlurmdParameters=config_overrides
ReturnToService=2
KillWait=5
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
${
      nodes.map((name, i) =>
        `NodeName=${name} NodeHostname=${host} NodeAddr=127.0.0.1 Port=${ports[1 + i]} CPUs=8 State=UNKNOWN`
      ).join("\n")
    }
PartitionName=p Nodes=${nodes} Default=YES MaxTime=INFINITE State=UP
`,
  );
  await Deno.mkdir(`${dir}/state`);
  for (const name of nodes) await Deno.mkdir(`${dir}/spool_${name}`);
  const env = { SLURM_CONF: conf };
  const daemon = (tool: string, ...args: string[]) =>
    new Deno.Command(which(tool)!, { args: ["-D", "-f", conf, ...args], env, stdout: "null", stderr: "null" }).spawn();
  const daemons = [daemon("slurmctld"), ...nodes.map((name) => daemon("slurmd", "-N", name))];
  const close = async () => {
    for (const d of daemons) {
      try {
        d.kill("SIGKILL");
      } catch {
        // It has ended.
      }
      await d.status;
    }
    await Deno.remove(dir, { recursive: true });
  };
  for (let i = 0; i < 100; i++) {
    const { stdout } = await new Deno.Command(which("sinfo")!, { args: ["-N", "-h", "-o", "%T"], env, stderr: "null" })
      .output();
    const states = new TextDecoder().decode(stdout).trim().split("\n");
    if (states.length === nodes.length && states.every((state) => state === "idle")) {
      return { env, nodes, [Symbol.asyncDispose]: close };
    }
    await new Promise((done) => setTimeout(done, 200));
  }
  const log = await Deno.readTextFile(`${dir}/ctld.log`).catch(() => "no log");
  await close();
  throw new Error(`Slurm's nodes did not come up: ${log.split("\n").slice(-5).join(" ")}`);
}

/** Free ports, all different. */
function freePorts(count: number): number[] {
  const listeners = Array.from({ length: count }, () => Deno.listen({ hostname: "127.0.0.1", port: 0 }));
  const ports = listeners.map((listener) => listener.addr.port);
  for (const listener of listeners) listener.close();
  return ports;
}
