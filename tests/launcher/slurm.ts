/** A private Slurm for tests: one controller and one node of 8 pretended CPUs, on ports of its own and without munge. */

/** A running Slurm. */
export interface Slurm extends AsyncDisposable {
  /** What commands such as srun need to find it. */
  readonly env: Record<string, string>;
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

/** Starts one. @throws {Error} If its node does not come up within 20 s. */
export async function startSlurm(): Promise<Slurm> {
  const dir = await Deno.makeTempDir({ prefix: "slurm-" });
  const host = Deno.hostname().split(".")[0]!;
  const [ctldPort, slurmdPort] = [freePort(), freePort()];
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
SlurmctldPort=${ctldPort}
SlurmdPort=${slurmdPort}
StateSaveLocation=${dir}/state
SlurmdSpoolDir=${dir}/spool
SlurmctldPidFile=${dir}/ctld.pid
SlurmdPidFile=${dir}/slurmd.pid
SlurmctldLogFile=${dir}/ctld.log
SlurmdLogFile=${dir}/slurmd.log
SlurmdParameters=config_overrides
ReturnToService=2
KillWait=5
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
NodeName=${host} NodeAddr=127.0.0.1 CPUs=8 State=UNKNOWN
PartitionName=p Nodes=${host} Default=YES MaxTime=INFINITE State=UP
`,
  );
  await Deno.mkdir(`${dir}/state`);
  await Deno.mkdir(`${dir}/spool`);
  const env = { SLURM_CONF: conf };
  const daemon = (tool: string) =>
    new Deno.Command(which(tool)!, { args: ["-D", "-f", conf], env, stdout: "null", stderr: "null" }).spawn();
  const daemons = [daemon("slurmctld"), daemon("slurmd")];
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
    const { stdout } = await new Deno.Command(which("sinfo")!, { args: ["-h", "-o", "%T"], env, stderr: "null" })
      .output();
    if (new TextDecoder().decode(stdout).trim() === "idle") return { env, [Symbol.asyncDispose]: close };
    await new Promise((done) => setTimeout(done, 200));
  }
  const log = await Deno.readTextFile(`${dir}/ctld.log`).catch(() => "no log");
  await close();
  throw new Error(`Slurm's node did not come up: ${log.split("\n").slice(-5).join(" ")}`);
}

function freePort(): number {
  using listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  return listener.addr.port;
}
