import assert from "node:assert/strict";
import { ProgressLine } from "./progress_line.ts";

Deno.test("ProgressLine shows phases and counts on one line, and removes it at the end", () => {
  let text = "", now = 0;
  {
    using line = new ProgressLine({ write: (t) => text += t, now: () => now += 100 });
    line.onProgress("reading");
    line.onProgress("loading segments", 0, 2);
    line.onProgress("loading segments", 2, 2);
  }
  assert.equal(text, "\r\x1b[Kreading…\r\x1b[Kloading segments 0/2\r\x1b[Kloading segments 2/2\r\x1b[K");
});

Deno.test("ProgressLine skips updates that follow too fast, but neither a new phase nor the last part", () => {
  const shown: string[] = [];
  using line = new ProgressLine({ write: (t) => void shown.push(t.slice(4)), now: () => 7 });
  for (let done = 0; done <= 100; done++) line.onProgress("loading", done, 100);
  line.onProgress("planning");
  assert.deepEqual(shown, ["loading 0/100", "loading 100/100", "planning…"]);
});

Deno.test("ProgressLine writes nothing where nobody watches, or where nothing happened", () => {
  let text = "";
  {
    using nobody = new ProgressLine(undefined);
    nobody.onProgress("reading");
    using idle = new ProgressLine({ write: (t) => text += t, now: () => 0 });
    void idle;
  }
  assert.equal(text, "");
});
