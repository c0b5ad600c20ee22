/** What users see when something is wrong: one message, what to do, and a code that is not 0. */
import assert from "node:assert/strict";
import { join } from "node:path";
import { shardwise, testModel } from "../support/cli.ts";
import { REPOSITORY } from "../support/shared.ts";

const LLAMA = testModel("llama", "model.onnx");
const RUN = ["-i", testModel("llama", "decode.inputs.safetensors"), "-o", "out.safetensors"];

async function requireError(args: string[], code: number, ...messages: RegExp[]): Promise<void> {
  const result = await shardwise(...args);
  const said = `${args.join(" ")}: ${result.stdout}${result.stderr}`;
  assert.equal(result.code, code, said);
  assert.equal(result.stdout, "", said);
  assert.equal(result.stderr.match(/^error: /gm)?.length, 1, said);
  assert.doesNotMatch(result.stderr, /^\s+at /m, `no stack in ${said}`);
  for (const message of messages) assert.match(result.stderr, message, said);
}

Deno.test("shardwise suggests the command and the option that are meant", async () => {
  await requireError(
    ["genrate"],
    64,
    /Unknown command "genrate": did you mean "generate"\?/,
    /^hint: shardwise --help/m,
  );
  await requireError(["--verison"], 64, /did you mean "--version"\?/);
  await requireError(
    ["verify", "--nprocs", "2"],
    64,
    /Unknown option --nprocs of `shardwise verify`: did you mean "--nproc"\?/,
  );
});

Deno.test("shardwise says that a mesh or a format cannot be read, as of any other option", async () => {
  await requireError(["plan", LLAMA, "--mesh", "dp=2,pp=2"], 64, /Cannot read mesh "dp=2,pp=2": found "pp=2"/);
  await requireError(["run", LLAMA, ...RUN, "--mesh", "dp=0"], 64, /Cannot read mesh "dp=0"/);
  await requireError(["verify", testModel("llama"), "--mesh", "tp=x"], 64, /Cannot read mesh "tp=x"/);
  await requireError(["plan", LLAMA, "--tp", "2", "--quantize", "int5"], 64, /did you mean "int4"\?/);
});

Deno.test("shardwise without arguments prints its help and fails", async () => {
  const { code, stdout, stderr } = await shardwise();
  assert.equal(code, 64);
  assert.equal(stdout, "");
  assert.match(stderr, /Usage: shardwise COMMAND/);
});

Deno.test("shardwise --help and --version answer on stdout, and every command has a help of its own", async () => {
  const { code, stdout } = await shardwise("--help");
  assert.equal(code, 0);
  for (const command of ["run", "verify", "generate", "plan"]) {
    assert.match(stdout, new RegExp(`^  ${command} `, "m"));
    const help = await shardwise(command, "--help");
    assert.equal(help.code, 0);
    assert.match(help.stdout, new RegExp(`^Usage: shardwise ${command} `, "m"));
    assert.match(help.stdout, /^Examples:$/m);
  }
  assert.match((await shardwise("--version")).stdout, /^shardwise \d+\.\d+\.\d+\n$/);
});

Deno.test("shardwise names a file that is missing, and one nearby", async () => {
  await requireError(
    ["run", testModel("llama", "modle.onnx"), ...RUN],
    2,
    /modle.onnx: there is no such file/,
    /did you mean .*model.onnx/,
  );
  await requireError(
    ["run", LLAMA, "-i", "no.safetensors", "-o", "x.safetensors"],
    2,
    /no.safetensors: there is no such file/,
  );
  await requireError(
    ["run", LLAMA, RUN[0]!, RUN[1]!, "-o", "no/such/out.safetensors"],
    64,
    /there is no folder no\/such/,
  );
  await requireError(["plan", "no.onnx", "--tp", "2"], 2, /no.onnx: there is no such file/);
  await requireError(["verify", "src/core"], 2, /has a cases.json/);
});

Deno.test("shardwise refuses damaged models with one message from all ranks", async () => {
  const folder = Deno.makeTempDirSync({ prefix: "shardwise-broken-" });
  const model = Deno.readFileSync(join(REPOSITORY, LLAMA));
  const damaged: [string, Uint8Array][] = [
    ["empty", new Uint8Array(0)],
    ["truncated", model.subarray(0, 100_000)],
    ["text", new TextEncoder().encode("this is no model\n".repeat(50))],
  ];
  for (const [name, bytes] of damaged) {
    const path = join(folder, `${name}.onnx`);
    Deno.writeFileSync(path, bytes);
    await requireError(["run", path, "-n", "3", ...RUN], 2, new RegExp(`${name}\\.onnx`), /^hint: /m);
    await requireError(["plan", path, "--tp", "2"], 2, new RegExp(`${name}\\.onnx`));
  }
  Deno.removeSync(folder, { recursive: true });
});

Deno.test("shardwise refuses arguments that make no sense before it starts a rank", async () => {
  await requireError(["run", LLAMA, ...RUN, "-n", "0"], 64, /--nproc "0" is not a whole number from 1/);
  await requireError(["run", ...RUN], 64, /MODEL.onnx is missing/);
  await requireError(["run", LLAMA], 64, /--inputs PATH is missing/);
  await requireError(["plan", LLAMA], 64, /--tp N is missing/);
  await requireError(["verify", testModel("llama"), "--cases", "zzz"], 64, /no case matches/);
  const folder = Deno.makeTempDirSync({ prefix: "shardwise-cases-" });
  try {
    Deno.writeTextFileSync(join(folder, "cases.json"), "[]");
    await requireError(["verify", folder], 64, /cases\.json holds no case/);
  } finally {
    Deno.removeSync(folder, { recursive: true });
  }
  await requireError(["generate", "examples/demo", "--prompt-ids", "1000"], 2, /token 1000.*vocabulary has 63/);
});

Deno.test("a folder or file that cannot be written is one error that names it, before any work is done", async () => {
  const mlp = testModel("mlp"), folder = Deno.makeTempDirSync({ prefix: "shardwise-outputs-" });
  const cases = [
    ["/proc/parts", "no such file or directory", "export", mlp, "--tp", "2", "--out"],
    ["/proc/plan.html", "no such file or directory", "plan", mlp, "--tp", "2", "--html"],
    ["/dev/full", "no space left on device", "plan", mlp, "--tp", "2", "--html"],
    [folder, "is a directory", "trace", testModel("llama"), "--html"],
    ["/proc/trace.json", "no such file or directory", "trace", testModel("llama"), "--out"],
    ["/proc/out.safetensors", "no such file or directory", "run", LLAMA, ...RUN.slice(0, 2), "--outputs"],
  ] as const;
  for (const [path, reason, ...args] of cases) {
    const { code, stderr } = await shardwise(...args, path);
    assert.equal(code, 2, stderr);
    assert.equal(
      stderr,
      `error: Cannot write ${path}: ${reason}\nhint: name a place that can be written, with room for it\n`,
    );
  }
  assert.deepEqual([...Deno.readDirSync(folder)], []);
  assert.ok(Deno.statSync("/dev/full").isCharDevice, "a device is left as it is");
  Deno.removeSync(folder);
});
