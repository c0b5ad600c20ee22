import assert from "node:assert/strict";
import fc from "fast-check";
import {
  encodeFrame,
  field,
  FrameDecoder,
  MAX_FRAME,
  OP,
  StoreError,
  type StoreFrame,
  text,
} from "./store_protocol.ts";

Deno.test("frames survive the wire however it is cut", () => {
  const frame = fc.record({
    op: fc.constantFrom(...Object.values(OP)),
    id: fc.nat(0xffffffff),
    fields: fc.array(fc.uint8Array({ maxLength: 40 }), { maxLength: 5 }),
  });
  fc.assert(
    fc.property(
      fc.array(frame, { maxLength: 6 }),
      fc.infiniteStream(fc.integer({ min: 1, max: 9 })),
      (frames, cuts) => {
        const wire = frames.flatMap((f) => [...encodeFrame(f.op, f.id, f.fields)]);
        const decoder = new FrameDecoder(MAX_FRAME);
        const found: StoreFrame[] = [];
        for (let at = 0; at < wire.length;) {
          const n = cuts.next().value as number;
          found.push(...decoder.push(new Uint8Array(wire.slice(at, at + n))));
          at += n;
        }
        assert.deepEqual(
          found.map((f) => ({ ...f, fields: f.fields.map((b) => [...b]) })),
          frames.map((f) => ({ ...f, fields: f.fields.map((b) => [...b]) })),
        );
      },
    ),
  );
});

Deno.test("garbage is a StoreError or waits for more, never another error", () => {
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: 200 }), (bytes) => {
      try {
        for (const frame of new FrameDecoder(1024).push(bytes)) assert.ok(frame.fields.length >= 0);
      } catch (error) {
        assert.ok(error instanceof StoreError, String(error));
      }
    }),
    { numRuns: 500 },
  );
});

Deno.test("a frame above the limit is refused from its length alone", () => {
  const head = new Uint8Array([0xff, 0xff, 0xff, 0x7f]);
  assert.throws(() => [...new FrameDecoder(1024).push(head)], /frame of 2147483647 bytes: expected 7 to 1024/);
});

Deno.test("a field that reaches beyond its frame is refused", () => {
  const bytes = encodeFrame(OP.set, 1, [field("key")]);
  bytes[11] = 200; // the field's length
  assert.throws(() => [...new FrameDecoder(1024).push(bytes)], /longer than its frame/);
});

Deno.test("a value that is too large to send is refused before it is sent", () => {
  assert.throws(() => encodeFrame(OP.set, 1, [new Uint8Array(MAX_FRAME)]), /the store takes at most/);
  assert.equal(text(field("ä€")), "ä€");
});
