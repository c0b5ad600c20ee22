import assert from "node:assert/strict";
import { join } from "node:path";
import { FormatError, UsageError } from "../core/errors.ts";
import { ModelFolder } from "./model_folder.ts";

/** Opens a new folder with these files, runs `check`, and removes it. */
function withFolder(files: Record<string, unknown>, check: (path: string) => void): void {
  const path = Deno.makeTempDirSync({ prefix: "shardwise-folder-" });
  try {
    for (const [name, content] of Object.entries(files)) {
      Deno.mkdirSync(join(path, name, ".."), { recursive: true });
      Deno.writeTextFileSync(join(path, name), typeof content === "string" ? content : JSON.stringify(content));
    }
    check(path);
  } finally {
    Deno.removeSync(path, { recursive: true });
  }
}

Deno.test("ModelFolder.open() finds the graph where the hub's folders have it", () => {
  for (const graph of ["model.onnx", "onnx/model.onnx", "decoder_model_merged.onnx", "only.onnx"]) {
    withFolder({ [graph]: "", "config.json": {} }, (path) => {
      assert.equal(ModelFolder.open(path).model, join(path, graph));
      assert.equal(ModelFolder.open(join(path, graph)).folder, path, "configurations of an onnx folder lie above it");
    });
  }
});

Deno.test("ModelFolder.open() refuses folders without a graph, with several, and paths to nothing", () => {
  withFolder({ "a.txt": "" }, (path) => assert.throws(() => ModelFolder.open(path), /holds no .onnx file/));
  withFolder({ "a.onnx": "", "b.onnx": "" }, (path) => {
    assert.throws(() => ModelFolder.open(path), /Cannot tell which .* a.onnx, b.onnx/);
    assert.throws(() => ModelFolder.open(join(path, "aa.onnx")), FormatError);
  });
});

Deno.test("ModelFolder reads end ids and context length from whichever file has them", () => {
  withFolder({ "model.onnx": "", "config.json": { eos_token_id: 2, n_positions: 64, n_ctx: 2048 } }, (path) => {
    const folder = ModelFolder.open(path);
    assert.deepEqual(folder.endIds, [2]);
    assert.equal(folder.contextLength, 64);
    Deno.writeTextFileSync(join(path, "generation_config.json"), JSON.stringify({ eos_token_id: [5, 6] }));
    assert.deepEqual(folder.endIds, [5, 6]);
  });
  withFolder({ "model.onnx": "", "config.json": { eos_token_id: null } }, (path) => {
    assert.deepEqual(ModelFolder.open(path).endIds, []);
    assert.equal(ModelFolder.open(path).contextLength, undefined);
  });
});

Deno.test("ModelFolder says what is missing or malformed, and where", () => {
  withFolder({ "model.onnx": "", "config.json": "{", "tokenizer.json": "[1]" }, (path) => {
    const folder = ModelFolder.open(path);
    assert.throws(() => folder.endIds, /config.json: it is not valid JSON/);
    assert.throws(() => folder.tokenizer(), /has no "model"/);
    assert.throws(() => folder.chat([{ role: "user", content: "hi" }]), UsageError);
  });
  withFolder(
    { "model.onnx": "" },
    (path) => assert.throws(() => ModelFolder.open(path).tokenizer(), /no tokenizer.json/),
  );
});

Deno.test("ModelFolder finds the encoder, the first step, and what the decoder starts from", () => {
  const files = { "encoder_model.onnx": "", "decoder_model.onnx": "", "decoder_with_past_model.onnx": "" };
  withFolder({ ...files, "config.json": { decoder_start_token_id: 2, pad_token_id: 1 } }, (path) => {
    const folder = ModelFolder.open(path);
    assert.equal(folder.model, join(path, "decoder_with_past_model.onnx"));
    assert.equal(folder.firstStep, join(path, "decoder_model.onnx"));
    assert.equal(folder.encoder, join(path, "encoder_model.onnx"));
    assert.deepEqual([folder.decoderPrompt, folder.padId], [[2], 1]);
  });
  withFolder({ ...files, "decoder_model_merged.onnx": "" }, (path) => {
    const folder = ModelFolder.open(path);
    assert.equal(folder.model, join(path, "decoder_model_merged.onnx"), "one file serves both steps");
    assert.equal(folder.firstStep, undefined);
    assert.deepEqual([folder.decoderPrompt, folder.padId], [[], 0]);
  });
  withFolder({ "model.onnx": "", "encoder_model.onnx": "" }, (path) => {
    assert.equal(ModelFolder.open(path).encoder, undefined, "a model that is no decoder needs none");
  });
});
