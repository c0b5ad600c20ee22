import assert from "node:assert/strict";
import { UsageError } from "../src/core/errors.ts";
import { checkProgram, ProgramError, type ProgramHost } from "./program_check.ts";

const FILES: Record<string, { isFile: boolean; isDirectory: boolean; mode: number }> = {
  "a.ts": { isFile: true, isDirectory: false, mode: 0o644 },
  "secret.ts": { isFile: true, isDirectory: false, mode: 0 },
  "dir": { isFile: false, isDirectory: true, mode: 0o755 },
  "./dir": { isFile: false, isDirectory: true, mode: 0o755 },
  "/one/tool": { isFile: true, isDirectory: false, mode: 0o644 },
  "/two/tool": { isFile: true, isDirectory: false, mode: 0o755 },
  "/one/plain": { isFile: true, isDirectory: false, mode: 0o644 },
};

const HOST: ProgramHost = {
  path: "/one:/two",
  stat: (path) => FILES[path] ?? raise(new Deno.errors.NotFound(path)),
  open: (path) => path === "secret.ts" ? raise(new Deno.errors.PermissionDenied(path)) : { [Symbol.dispose]() {} },
};

function raise(error: Error): never {
  throw error;
}

const script = (name: string) => checkProgram({ kind: "deno", script: name }, HOST);
const exec = (name: string) => checkProgram({ kind: "exec", command: name }, HOST);

Deno.test("files that can be read, URLs and programs in PATH pass the check", () => {
  for (const name of ["a.ts", "https://example.com/x.ts", "npm:tool"]) script(name);
  exec("tool");
  exec("/two/tool");
});

Deno.test("a script that is missing, a folder, or not to be read is refused with the reason", () => {
  const refused = (name: string, why: RegExp) =>
    assert.throws(
      () => script(name),
      (error) => error instanceof UsageError && why.test(error.message) && !!error.hint,
    );
  refused("b.ts", /"b\.ts": there is no such file here/);
  refused("/b.ts", /"\/b\.ts": there is no such file$/);
  refused("file:///no/such.ts", /there is no such file/);
  refused("dir", /it is a folder/);
  refused("secret.ts", /may not read it/);
  refused("", /no such file/);
});

Deno.test("a program that is missing ends with 127, one that cannot be executed with 126, as in a shell", () => {
  const refused = (name: string, code: number, why: RegExp) =>
    assert.throws(
      () => exec(name),
      (error) => error instanceof ProgramError && error.exitCode === code && why.test(error.message),
    );
  refused("nothing", 127, /no folder of PATH has it/);
  refused("/no/such", 127, /there is no such file/);
  refused("", 127, /empty/);
  refused("plain", 126, /\/one\/plain is not executable/);
  refused("./dir", 126, /it is a folder/);
});
