import assert from "node:assert/strict";
import fc from "fast-check";
import { concat, LinePrefixer, OutputSink, Tail } from "./output.ts";

const encode = (text: string) => new TextEncoder().encode(text);
const decode = (bytes: Uint8Array) => new TextDecoder().decode(bytes);

Deno.test("LinePrefixer gives the same lines however the stream is cut", () => {
  fc.assert(
    fc.property(
      fc.array(fc.string({ unit: "grapheme-ascii" })),
      fc.array(fc.integer({ min: 1, max: 20 }), { minLength: 1 }),
      (lines, cuts) => {
        const bytes = encode(lines.map((line) => line + "\n").join(""));
        const prefixer = new LinePrefixer(() => encode("> "));
        const parts: Uint8Array[] = [];
        for (let at = 0, i = 0; at < bytes.length; i++) {
          const n = cuts[i % cuts.length]!;
          parts.push(prefixer.push(bytes.subarray(at, at + n)));
          at += n;
        }
        parts.push(prefixer.end());
        const expected = lines.flatMap((line) => line.split("\n")).map((line) => `> ${line}\n`).join("");
        assert.equal(decode(concat(parts)), expected);
      },
    ),
  );
});

Deno.test("LinePrefixer bounds its memory on a line that never ends", () => {
  const prefixer = new LinePrefixer(() => encode("> "));
  let out = 0;
  for (let i = 0; i < 40; i++) out += prefixer.push(new Uint8Array(100_000).fill(65)).length;
  assert.ok(out > 2_000_000);
});

Deno.test("OutputSink keeps order, survives short writes, and asks writers to wait for a slow reader", async () => {
  let text = "";
  const sink = new OutputSink({
    isTerminal: () => false,
    write: async (bytes) => {
      await new Promise((done) => setTimeout(done, 0));
      const n = Math.min(bytes.length, 300_000);
      text += decode(bytes.subarray(0, n));
      return n;
    },
  });
  sink.line("first");
  const slow = sink.write(new Uint8Array(2_000_000).fill(66));
  sink.line("last");
  assert.ok(slow instanceof Promise);
  await sink.drain(10_000);
  assert.equal(text, `first\n${"B".repeat(2_000_000)}last\n`);
});

Deno.test("OutputSink swallows the rest once its reader is gone, and drain() does not hang on one that is stuck", async () => {
  let told = 0;
  const target = { isTerminal: () => false, write: () => Promise.reject(new Deno.errors.BrokenPipe()) };
  const broken = new OutputSink(target, () => told++);
  broken.line("x");
  await broken.drain(1000);
  assert.equal(broken.broken, true);
  assert.equal(broken.write(encode("y")), undefined);
  assert.equal(told, 1);
  const stuck = new OutputSink({ isTerminal: () => false, write: () => new Promise(() => {}) });
  stuck.line("x");
  const begun = performance.now();
  await stuck.drain(20);
  assert.ok(performance.now() - begun < 1000);
});

Deno.test("Tail keeps the last bytes and cleans its lines of control characters", () => {
  const tail = new Tail(100);
  for (let i = 0; i < 1000; i++) tail.push(encode(`line ${i}\n`));
  assert.deepEqual(tail.lines(2), ["line 998", "line 999"]);
  tail.push(encode("\x1b[31mred\x1b[0m \x07bell\r\n"));
  assert.equal(tail.lines(1)[0], "red bell");
  tail.push(new Uint8Array(1000).fill(67));
  assert.equal(tail.lines(1)[0]!.length, 100);
});
