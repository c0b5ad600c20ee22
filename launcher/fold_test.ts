import assert from "node:assert/strict";
import { LineFolder } from "./fold.ts";

function folder(ranks: number) {
  let text = "";
  const fold = new LineFolder({
    write: (bytes) => void (text += new TextDecoder().decode(bytes)),
    prefix: (who) => new TextEncoder().encode(`[${who}] `),
  });
  const streams = Array.from({ length: ranks }, (_, rank) => fold.stream(rank));
  const push = (rank: number, lines: string) => void streams[rank]!(new TextEncoder().encode(lines));
  const end = () => streams.forEach((stream) => void stream(undefined));
  return { push, end, read: () => text };
}

Deno.test("a line that all ranks print is shown once, at once, and then who printed the same", () => {
  const { push, end, read } = folder(8);
  push(3, "a\nb\n");
  assert.equal(read(), "[3] a\n[3] b\n");
  for (const rank of [0, 1, 2, 4, 5, 6, 7]) push(rank, "a\nb\n");
  end();
  assert.equal(read(), "[3] a\n[3] b\n[0-2,4-7] same 2 lines as rank 3\n");
});

Deno.test("ranks that print more or less of it are named apart", () => {
  const { push, end, read } = folder(4);
  push(0, "a\nb\n");
  push(1, "a\nb\n");
  push(2, "a\n");
  push(3, "b\n");
  end();
  assert.equal(read(), "[0] a\n[0] b\n[1] same 2 lines as rank 0\n[2-3] same line as rank 0\n");
});

Deno.test("a line of one rank alone is shown, after what it had in common with others", () => {
  const { push, end, read } = folder(2);
  push(0, "warning\n");
  push(1, "warning\nonly mine\n");
  end();
  assert.equal(read(), "[0] warning\n[1] same line as rank 0\n[1] only mine\n");
});

Deno.test("a rank that repeats itself is shown each time", () => {
  const { push, end, read } = folder(2);
  push(0, "step\nstep\n");
  push(1, "step\n");
  end();
  assert.equal(read(), "[0] step\n[0] step\n[1] same line as rank 0\n");
});

Deno.test("copies are said while the ranks run on", async () => {
  const { push, end, read } = folder(2);
  push(0, "loading\n");
  push(1, "loading\n");
  for (let i = 0; i < 500 && !read().includes("same"); i++) await new Promise((done) => setTimeout(done, 10));
  assert.equal(read(), "[0] loading\n[1] same line as rank 0\n");
  end();
});
