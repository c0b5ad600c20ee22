// deno-lint-ignore-file no-console -- a user's program
/** A program of two modules, a package and a file beside it. */
import leven from "leven";
import { fail, here } from "./parts/part.ts";

const beside = Deno.statSync(new URL("./bundled.ts", import.meta.url)).isFile;
console.log(JSON.stringify({ distance: leven("abc", "abd"), here, beside, main: import.meta.main }));
if (Deno.args[0] === "fail") fail();
