/** What is seen of a model's loading. */
import assert from "node:assert/strict";
import { join } from "node:path";
import { existsSync } from "node:fs";
import { init } from "../../src/runtime/comm/init.ts";
import { parallelizeModel } from "../../src/session.ts";
import { shardwise, testModel } from "../support/cli.ts";
import { REPOSITORY } from "../support/shared.ts";

const MODEL = testModel("llama", "model.onnx"), INPUTS = testModel("llama", "decode.inputs.safetensors");

Deno.test("parallelizeModel() tells its phases in order, and counts segments to the last one", async () => {
  const seen: string[] = [];
  await using comm = await init();
  await using model = await parallelizeModel(join(REPOSITORY, MODEL), {
    comm,
    onProgress: (phase, done, total) => seen.push(total === undefined ? phase : `${phase} ${done}/${total}`),
  });
  assert.equal(model.inputs.length > 0, true);
  assert.deepEqual(seen.slice(0, 2), ["reading", "planning"]);
  assert.ok(seen.indexOf("placing weights 0/1") > 1, seen.join());
  assert.equal(seen.at(-1), "loading segments 1/1");
});

const script = ["/usr/bin/script", "/bin/script"].find((path) => existsSync(path));

Deno.test({
  name: `a terminal shows how far loading is, and keeps nothing of it${script ? "" : " (skipped: no script program)"}`,
  ignore: script === undefined,
  fn: async () => {
    const out = Deno.makeTempFileSync({ prefix: "shardwise-progress-", suffix: ".safetensors" });
    try {
      const command = [Deno.execPath(), "run", "-A", "-q", "cli/main.ts", "run", MODEL, "-n", "2", "-i", INPUTS]
        .join(" ");
      const { stdout } = await new Deno.Command(script!, {
        args: ["-qec", `${command} -o ${out}`, "/dev/null"],
        cwd: REPOSITORY,
        env: { TERM: "xterm" },
        stdin: "null",
      }).output();
      const text = new TextDecoder().decode(stdout);
      assert.ok(text.includes("\r\x1b[Kplanning…\r\x1b[K"), text);
      const [last, total] = [...text.matchAll(/loading segments (\d+)\/(\d+)\r/g)].at(-1)!.slice(1);
      assert.equal(last, total);
      // The line is cleared before the first result.
      assert.ok(text.includes("\r\x1b[Klogits f32"), text);
    } finally {
      Deno.removeSync(out);
    }
  },
});

Deno.test("no progress is written where stderr is no terminal", async () => {
  const out = Deno.makeTempFileSync({ prefix: "shardwise-progress-", suffix: ".safetensors" });
  try {
    const { stderr, code } = await shardwise("run", MODEL, "-n", "2", "-i", INPUTS, "-o", out);
    assert.equal(code, 0);
    assert.equal(stderr, "");
  } finally {
    Deno.removeSync(out);
  }
});
