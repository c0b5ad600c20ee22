import assert from "node:assert/strict";
import fc from "fast-check";
import { StopStrings, TextStream } from "./text_stream.ts";

/** A decoder of tokens that are one byte each. */
function decodeBytes(ids: readonly number[]): string {
  return new TextDecoder("utf-8", { ignoreBOM: true }).decode(Uint8Array.from(ids));
}

/** A decoder like SentencePiece's: a word's space stands before it, and the first one is dropped. */
function decodeWords(ids: readonly number[]): string {
  return ids.map((id) => ["▁In", "▁the", "▁beginning", "ning", ""][id]!).join("").replaceAll("▁", " ").replace(
    /^ /,
    "",
  );
}

Deno.test("TextStream gives characters only when their last byte has come", () => {
  const stream = new TextStream(decodeBytes);
  const pieces = [...new TextEncoder().encode("a🙂é")].map((byte) => stream.push(byte));
  assert.deepEqual(pieces, ["a", "", "", "", "🙂", "", "é"]);
  assert.equal(stream.end(), "");
});

Deno.test("TextStream shows an incomplete character at the end as U+FFFD", () => {
  const stream = new TextStream(decodeBytes);
  assert.equal(stream.push(0x61) + stream.push(0xf0) + stream.push(0x9f), "a");
  assert.equal(stream.end(), "\uFFFD");
});

Deno.test("TextStream does not wait for ever behind bytes that are no UTF-8", () => {
  const stream = new TextStream(decodeBytes);
  const shown = Array.from({ length: 12 }, () => stream.push(0xff)).join("") + stream.end();
  assert.equal(shown, "\uFFFD".repeat(12));
});

Deno.test("TextStream keeps the spaces between words of a decoder that drops the first", () => {
  const stream = new TextStream(decodeWords);
  assert.deepEqual([0, 1, 4, 2, 3].map((id) => stream.push(id)), ["In", " the", "", " beginning", "ning"]);
});

Deno.test("TextStream decodes a window that does not grow", () => {
  let longest = 0;
  const stream = new TextStream((ids) => {
    longest = Math.max(longest, ids.length);
    return decodeBytes(ids);
  });
  for (let i = 0; i < 500; i++) stream.push(0x61);
  assert.ok(longest <= 12, `a window of ${longest}`);
});

Deno.test("TextStream gives in pieces exactly what decoding at once gives", () => {
  const unit = fc.oneof(fc.constant("\uFFFD"), fc.constant("🙂"), fc.string({ unit: "grapheme", maxLength: 1 }));
  fc.assert(fc.property(fc.array(unit, { maxLength: 40 }), (units) => {
    const text = units.join("");
    const stream = new TextStream(decodeBytes);
    const pieces = [...new TextEncoder().encode(text)].map((byte) => stream.push(byte));
    assert.equal(pieces.join("") + stream.end(), text);
    if (!text.includes("\uFFFD")) assert.ok(pieces.every((piece) => !piece.includes("\uFFFD")));
  }));
});

Deno.test("TextStream gives what decoding at once gives where tokens hold the end of one character and the beginning of another", () => {
  const unit = fc.constantFrom("\uFFFD", "🙂", "é", "a");
  fc.assert(fc.property(fc.array(unit, { maxLength: 30 }), fc.array(fc.integer({ min: 1, max: 4 })), (units, sizes) => {
    const bytes = [...new TextEncoder().encode(units.join(""))], tokens: number[][] = [];
    for (let at = 0; at < bytes.length;) {
      const size = sizes[tokens.length % Math.max(1, sizes.length)] ?? 1;
      tokens.push(bytes.slice(at, at += size));
    }
    const stream = new TextStream((ids) => decodeBytes(ids.flatMap((id) => tokens[id]!)));
    assert.equal(tokens.map((_, id) => stream.push(id)).join("") + stream.end(), units.join(""));
  }));
});

Deno.test("TextStream knows a U+FFFD that the text has from a character in the making", () => {
  const stream = new TextStream(decodeBytes);
  const pieces = [...new TextEncoder().encode("\uFFFD🙂")].map((byte) => stream.push(byte));
  assert.deepEqual(pieces, ["", "", "", "", "", "\uFFFD", "🙂"]);
});

Deno.test("StopStrings ends before a stop string that comes in pieces", () => {
  const stop = new StopStrings(["\nUser:", "END"]);
  assert.deepEqual(["Hi.", "\nUs", "er: you"].map((t) => stop.push(t)), ["Hi.", "", ""]);
  assert.ok(stop.stopped);
  assert.equal(stop.push("more") + stop.end(), "");
});

Deno.test("StopStrings gives back what only looked like a stop string", () => {
  const stop = new StopStrings(["END"]);
  assert.deepEqual(["a E", "N", "T", " E"].map((t) => stop.push(t)), ["a ", "", "ENT", " "]);
  assert.equal(stop.stopped, false);
  assert.equal(stop.end(), "E");
});

Deno.test("StopStrings ends at the first of several stop strings", () => {
  const stop = new StopStrings(["two", "one", ""]);
  assert.equal(stop.push("zero one two"), "zero ");
});
