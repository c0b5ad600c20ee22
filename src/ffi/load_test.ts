import assert from "node:assert/strict";
import { UnavailableError } from "../core/errors.ts";
import { loadLibrary } from "./load.ts";

const TABLE = { getpid: { parameters: [], result: "i32" } } as const;

Deno.test("loadLibrary() opens the first candidate that loads", { ignore: Deno.build.os !== "linux" }, () => {
  const library = loadLibrary({ name: "libc", candidates: ["/nowhere/libc.so", "libc.so.6"] }, TABLE);
  assert.equal(library.symbols.getpid(), Deno.pid);
  library.close();
});

Deno.test("loadLibrary() lists every path that it tried, and says what to do", () => {
  const spec = {
    name: "libfoo",
    candidates: ["libfoo.so.1", "/opt/foo/libfoo.so"],
    env: "FOO_LIBRARY",
    hint: "install foo",
  };
  assert.throws(() => loadLibrary(spec, TABLE), (error) => {
    assert.ok(error instanceof UnavailableError);
    assert.match(
      error.message,
      /Cannot open libfoo: none of these loads\n {2}libfoo\.so\.1: .+\n {2}\/opt\/foo\/libfoo\.so: /,
    );
    assert.equal(error.hint, "install foo, or set FOO_LIBRARY to the library's path");
    return true;
  });
});

Deno.test("loadLibrary() takes the path of the environment variable, and no other", () => {
  Deno.env.set("SHARDWISE_TEST_LIBRARY", "/nowhere/libbar.so");
  try {
    const spec = { name: "libc", candidates: ["libc.so.6"], env: "SHARDWISE_TEST_LIBRARY" };
    assert.throws(
      () => loadLibrary(spec, TABLE),
      /libc \(from SHARDWISE_TEST_LIBRARY\): none of these loads\n {2}\/nowhere\/libbar\.so/,
    );
  } finally {
    Deno.env.delete("SHARDWISE_TEST_LIBRARY");
  }
});
