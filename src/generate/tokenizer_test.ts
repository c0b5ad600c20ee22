import assert from "node:assert/strict";
import { parseTokenizer } from "./tokenizer.ts";

const DEMO = JSON.parse(Deno.readTextFileSync(new URL("../../examples/demo/tokenizer.json", import.meta.url)));
const SAMPLES = JSON.parse(Deno.readTextFileSync(new URL("../../examples/demo/samples.json", import.meta.url)));

/** Byte-level BPE of five letters, with one special token. */
const BYTES = {
  added_tokens: [{
    id: 5,
    content: "<end>",
    special: true,
    normalized: false,
    lstrip: false,
    rstrip: false,
    single_word: false,
  }],
  normalizer: null,
  pre_tokenizer: { type: "ByteLevel", add_prefix_space: false, use_regex: false },
  post_processor: null,
  decoder: { type: "ByteLevel" },
  model: { type: "BPE", vocab: { a: 0, b: 1, "Ã": 2, "©": 3, ab: 4 }, merges: [["a", "b"]] },
};

Deno.test("parseTokenizer() encodes and decodes as the demo's samples say", () => {
  const tokenizer = parseTokenizer(DEMO, undefined, "tokenizer.json");
  for (const { prompt, prompt_ids, text, ids } of SAMPLES.samples) {
    assert.deepEqual(tokenizer.encode(prompt), prompt_ids);
    assert.equal(tokenizer.decode(ids), text);
  }
});

Deno.test("parseTokenizer() merges, knows special tokens and leaves them out of text", () => {
  const tokenizer = parseTokenizer(BYTES, {}, "tokenizer.json");
  assert.deepEqual(tokenizer.encode("abé<end>b"), [4, 2, 3, 5, 1]);
  assert.equal(tokenizer.decode([4, 2, 3, 5, 1]), "abéb");
  assert.equal(tokenizer.tokenId("<end>"), 5);
  assert.equal(tokenizer.tokenId("nothing"), undefined);
});

Deno.test("parseTokenizer() marks half a character", () => {
  assert.equal(parseTokenizer(BYTES, {}, "tokenizer.json").decode([0, 2]), "a\uFFFD");
});

Deno.test("parseTokenizer() refuses what is no tokenizer, naming it", () => {
  assert.throws(
    () => parseTokenizer({ vocab: {} }, undefined, "x/tokenizer.json"),
    /x\/tokenizer.json: it has no "model"/,
  );
  assert.throws(
    () => parseTokenizer({ model: { type: "Magic" } }, undefined, "t.json"),
    /t.json: the library does not know it/,
  );
});
