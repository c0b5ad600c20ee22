/** Wrong command lines, as a user types them: one clear error that says what to do, the right code, and nothing started or left. */
import assert from "node:assert/strict";
import { program, run } from "./harness.ts";

const WHO = program("who.ts");
const NODE = ["--nnodes", "2", "--token", "t", "--startup-timeout", "300ms"];

const REFUSED:
  readonly (readonly [args: readonly string[], code: number, message: RegExp, env?: Record<string, string>])[] = [
    [[], 64, /no program was given/],
    [["no_such.ts"], 64, /"no_such\.ts": there is no such file here/],
    [["/tmp"], 64, /it is a folder/],
    [["file:///no/such.ts"], 64, /there is no such file/],
    [["--exec", "/no/such"], 127, /"\/no\/such": there is no such file/],
    [["--exec", "surely-not-a-program"], 127, /no folder of PATH has it/],
    [["--exec", WHO], 126, /is not executable/],
    [["--nproc", WHO], 64, /Cannot use --nproc ".*": expected a number/],
    [[WHO], 64, /Cannot use SHARDWISE_NPROC="many"/, { SHARDWISE_NPROC: "many" }],
    [["--log-dir", WHO, WHO], 64, /Cannot write logs to .*who\.ts/],
    [[WHO], 64, /temporary folder in \/no\/such/, { TMPDIR: "/no/such" }],
    [["--nproc", "2", "--stdin", "5", WHO], 64, /--stdin with rank 5: the job has rank 0 to 1/],
    [["--nproc", "2", "--show-ranks", "0-2", WHO], 64, /--show-ranks with rank 2/],
    [["--bundle", "https://127.0.0.1:9/x.ts"], 64, /no TypeScript or JavaScript file of this host/],
    [["--node-rank", "1", WHO], 64, /node 1 of 1/],
    [[...NODE, WHO], 64, /which of 2 nodes this is/],
    [[...NODE, "--node-rank", "0", WHO], 64, /no place to meet/],
    [[...NODE, "--node-rank", "0", "--rdzv", "ftp://h", WHO], 64, /ftp:\/\/ is no way to meet/],
    [[...NODE, "--node-rank", "0", "--rdzv", "tcp://h", WHO], 64, /it names no port/],
    [
      [...NODE, "--node-rank", "1", "--rdzv", "tcp://127.0.0.1:9", WHO],
      116,
      /tried 127\.0\.0\.1:9 \(Connection refused/,
    ],
    [[...NODE, "--node-rank", "0", "--rdzv", `file://${WHO}`, WHO], 116, /node 0 cannot write there/],
    [[...NODE, "--node-rank", "1", "--rdzv", "file:///no/such", WHO], 116, /wrote no address that answers/],
  ];

for (const [args, code, message, env = {}] of REFUSED) {
  const shown = [...Object.entries(env).map(([name, value]) => `${name}=${value}`), ...args].join(" ");
  Deno.test(`the command line "${shown.replaceAll(WHO, "who.ts")}" is one error with the code ${code}`, async () => {
    const result = await run(args, { env });
    assert.equal(result.code, code, result.stderr);
    assert.match(result.stderr, message);
    assert.match(result.stderr, /^error: Cannot [^]*$/);
    assert.doesNotMatch(result.stderr, /Uncaught|^ +at /m);
    assert.equal(result.stdout, "");
  });
}

Deno.test("a port that is taken costs a job on one host nothing but a line", async () => {
  using listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  const { port } = listener.addr;
  const result = await run(["--nproc", "2", "--master-port", String(port), program("barrier.ts"), "all"]);
  assert.equal(result.code, 0, result.stderr);
  assert.match(result.stderr, new RegExp(`takes port \\d+, as ${port} cannot be had: .*in use`));
});

Deno.test("a port is free again as soon as a job has ended", async () => {
  const probe = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  const port = String(probe.addr.port);
  probe.close();
  for (let i = 0; i < 2; i++) {
    const result = await run(["--nproc", "2", "--master-port", port, program("barrier.ts"), "all"]);
    assert.deepEqual([result.code, result.stderr], [0, ""]);
  }
});
