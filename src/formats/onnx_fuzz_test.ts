import assert from "node:assert/strict";
import { join } from "node:path";
import process from "node:process";
import { fromBinary, toBinary } from "@bufbuild/protobuf";
import fc from "fast-check";
import { FormatError } from "../core/errors.ts";
import { REPOSITORY, sharedOrSkip } from "../../tests/support/shared.ts";
import { importOnnx } from "./import_onnx.ts";
import { memorySource, openRanges } from "./mapped_file.ts";
import { readOnnx } from "./onnx_file.ts";
import {
  AttributeProtoSchema,
  type ModelProto,
  ModelProtoSchema,
  TensorProtoSchema,
} from "../../tests/support/onnx_schema.ts";

/** How many inputs each property has for each model; three properties and five models make 20,010 inputs. */
const RUNS = Number(Deno.env.get("SHARDWISE_TEST_RUNS") ?? 1334);
const SEED = Number(Deno.env.get("SHARDWISE_TEST_SEED") ?? Date.now() % 2 ** 31);
const RUN = { numRuns: RUNS, seed: SEED };
/** In the names of the tests, to replay one. */
const OFTEN = `${RUNS} times a model, seed ${SEED}`;

/** No file of a few hundred KB may take more of a processor, in ms: a hang would show here, as would quadratic work. */
const LIMIT_MS = 2000;

/** What may be read of a data file at once, and what memory one input may take, in bytes. */
const MOST_READ = 1 << 20, MOST_MEMORY = 64 << 20;

/**
 * Opens `bytes` in the place of the model at `path`, reads every weight, and imports the graph. The outcome: read, or refused with
 * a message that names the file.
 */
function attempt(path: string, bytes: Uint8Array): "read" | string {
  const took = stopwatch(), before = memoryInUse();
  let largest = 0;
  try {
    using file = readOnnx(path, {
      open: (p) => {
        if (p === path) return memorySource(p, bytes);
        const source = openRanges(p);
        return {
          ...source,
          size: source.size,
          path: p,
          bytes: (o, n) => (largest = Math.max(largest, n), source.bytes(o, n)),
          [Symbol.dispose]: () => source[Symbol.dispose](),
        };
      },
    });
    for (const source of file.initializers.values()) {
      if (source.strings) continue;
      source.bytes();
      source.shape.forEach((d, dim) => source.slice(dim, [[0, Math.min(d, 1)]]));
    }
    importOnnx(file);
    return "read";
  } catch (error) {
    assert.ok(error instanceof FormatError, error instanceof Error ? error.stack : String(error));
    assert.ok(error.message.includes(path), error.message);
    return error.message;
  } finally {
    assert.ok(took() < LIMIT_MS, `took ${took()} ms`);
    assert.ok(largest <= MOST_READ, `read ${largest} bytes at once`);
    const taken = memoryInUse() - before;
    assert.ok(taken <= MOST_MEMORY, `took ${taken} bytes of memory`);
  }
}

/** Tells the ms since now: of the clock or the processor, whichever counts less of what else runs. */
function stopwatch(): () => number {
  const began = performance.now(), used = process.cpuUsage();
  return () => {
    const { user, system } = process.cpuUsage(used);
    return Math.min(performance.now() - began, (user + system) / 1000);
  };
}

/** Bytes of objects and of buffers; less where garbage was collected in between. */
function memoryInUse(): number {
  const { heapUsed, external } = Deno.memoryUsage();
  return heapUsed + external;
}

const MODELS = [
  ...["mlp", "encoder-layer-unoptimised"].map((name) => join(REPOSITORY, "tests/data/models", name, "model.onnx")),
];

function models(): string[] {
  const more = [
    "models/genai/llama-int4/model.onnx",
    "models/moe/onehot-dynamo/model.onnx",
    "models/decoders/gpt2/model.onnx",
  ];
  return [...MODELS, ...more.map((name) => sharedOrSkip(name)).filter((p) => p !== undefined)];
}

Deno.test(`a model cut at any byte is refused, or what is left is a whole model (${OFTEN})`, () => {
  for (const path of models()) {
    const bytes = Deno.readFileSync(path);
    fc.assert(fc.property(fc.nat(bytes.length - 1), (end) => void attempt(path, bytes.subarray(0, end))), RUN);
    assert.equal(attempt(path, bytes), "read");
  }
});

Deno.test(`a model with bytes changed, removed or put in is read or refused (${OFTEN})`, () => {
  const edit = fc.record({
    at: fc.double({ min: 0, max: 1, noNaN: true, maxExcluded: true }),
    kind: fc.constantFrom("set" as const, "flip" as const, "remove" as const, "insert" as const),
    value: fc.uint8Array({ minLength: 1, maxLength: 12 }),
  });
  for (const path of models()) {
    const bytes = Deno.readFileSync(path);
    let refused = 0;
    fc.assert(
      fc.property(fc.array(edit, { minLength: 1, maxLength: 4 }), (edits) => {
        let changed = bytes.slice();
        for (const { at, kind, value } of edits) {
          const i = Math.floor(at * changed.length);
          if (kind === "set") changed.set(value.subarray(0, changed.length - i), i);
          else if (kind === "flip") changed[i]! ^= 1 << (value[0]! & 7);
          else {
            changed = joined([
              changed.subarray(0, i),
              ...(kind === "insert" ? [value] : []),
              changed.subarray(kind === "remove" ? i + value.length : i),
            ]);
          }
        }
        if (attempt(path, changed) !== "read") refused++;
      }),
      RUN,
    );
    assert.ok(refused > 0, "some damage is seen");
  }
});

function joined(parts: readonly Uint8Array[]): Uint8Array<ArrayBuffer> {
  const all = new Uint8Array(parts.reduce((n, part) => n + part.length, 0));
  let at = 0;
  for (const part of parts) {
    all.set(part, at);
    at += part.length;
  }
  return all;
}

/** Changes one field of one message of the model, chosen by `pick`, to something hostile; returns what was changed. */
function sabotage(model: ModelProto, pick: { message: number; field: number; value: number }): string {
  const messages: { $typeName: string }[] = [];
  const visit = (value: unknown) => {
    if (Array.isArray(value)) value.forEach(visit);
    else if (typeof value === "object" && value !== null && !(value instanceof Uint8Array)) {
      if ("$typeName" in value && !("$case" in value)) messages.push(value as { $typeName: string });
      for (const [key, inner] of Object.entries(value)) if (!key.startsWith("$")) visit(inner);
    }
  };
  visit(model);
  // Tensors and attributes carry sizes and kinds: half of the changes go there.
  const risky = messages.filter((m) =>
    m.$typeName === TensorProtoSchema.typeName || m.$typeName === AttributeProtoSchema.typeName
  );
  const pool = pick.value % 2 === 0 && risky.length > 0 ? risky : messages;
  const message = pool[pick.message % pool.length]! as unknown as Record<string, unknown>;
  const keys = Object.keys(message).filter((k) => !k.startsWith("$"));
  const key = keys[pick.field % keys.length]!;
  const hostile = {
    bigint: [-1n, 0n, 1n, 2n ** 31n, 2n ** 53n, 2n ** 63n - 1n, -(2n ** 63n)],
    number: [-1, 0, 1, 7, 99, 2 ** 31 - 1],
    string: [
      "",
      "x",
      "../../etc/passwd",
      "/etc/passwd",
      "y\u0000z",
      "com.microsoft",
      "length",
      "offset",
      "99999999999999999999",
    ],
  };
  const choose = <T>(list: readonly T[]) => list[Math.floor(pick.value / 2) % list.length]!;
  const old = message[key];
  if (typeof old === "bigint") message[key] = choose(hostile.bigint);
  else if (typeof old === "number") message[key] = choose(hostile.number);
  else if (typeof old === "string") message[key] = choose(hostile.string);
  else if (old instanceof Uint8Array) message[key] = old.subarray(0, choose([0, 1, 3]));
  else if (Array.isArray(old)) {
    if (old.length === 0) return "";
    const first = old[0];
    if (pick.value % 3 === 0) old.splice(pick.value % old.length, 1);
    else if (typeof first === "bigint") old[pick.value % old.length] = choose(hostile.bigint);
    else if (typeof first === "string") old[pick.value % old.length] = choose(hostile.string);
    else old.push(old[pick.value % old.length]);
  } else return "";
  return `${message.$typeName}.${key}`;
}

Deno.test(`a model with one field made hostile is read or refused (${OFTEN})`, () => {
  const pick = fc.record({ message: fc.nat(), field: fc.nat(100), value: fc.nat(1000) });
  for (const path of models()) {
    const bytes = Deno.readFileSync(path);
    const outcomes = new Set<string>();
    fc.assert(
      fc.property(pick, (p) => {
        const changed = fromBinary(ModelProtoSchema, bytes);
        const what = sabotage(changed, p);
        if (what !== "") outcomes.add(attempt(path, toBinary(ModelProtoSchema, changed)));
      }),
      RUN,
    );
    assert.ok(outcomes.size > 1, "some changes are refused");
  }
});
