/**
 * Starts any program as a rank where util-linux's `setpriv` is missing: asks the kernel to kill this process with its launcher, then
 * becomes the program. Usage: `deno run -A exec_shim.ts PROGRAM ARGS…`
 */

const PR_SET_PDEATHSIG = 1, SIGKILL = 9n, NOT_FOUND = 127, LAUNCHER_LOST = 113;

if (import.meta.main) {
  const libc = Deno.dlopen("libc.so.6", {
    prctl: {
      parameters: [
        "i32", // int option
        "u64", // unsigned long signal
      ],
      result: "i32",
    },
    execvp: {
      parameters: [
        "buffer", // const char *file
        "buffer", // char *const argv[]
      ],
      result: "i32",
    },
  });
  const strings = Deno.args.map((arg) => new TextEncoder().encode(arg + "\0"));
  const argv = new BigUint64Array(strings.length + 1);
  strings.forEach((bytes, i) => argv[i] = Deno.UnsafePointer.value(Deno.UnsafePointer.of(bytes)));
  libc.symbols.prctl(PR_SET_PDEATHSIG, SIGKILL);
  if (Deno.ppid !== Number(Deno.env.get("SHARDWISE_LAUNCHER_PID"))) Deno.exit(LAUNCHER_LOST);
  libc.symbols.execvp(strings[0]!, argv);
  Deno.stderr.writeSync(
    new TextEncoder().encode(`error: Cannot start ${Deno.args[0]}: no such program, or not executable\n`),
  );
  Deno.exit(NOT_FOUND);
}
