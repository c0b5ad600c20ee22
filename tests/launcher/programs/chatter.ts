// deno-lint-ignore-file no-console -- a user's program
/** A rank that prints its number: `chatter.ts LINES WIDTH`. */
const rank = Deno.env.get("RANK")!;
for (let i = 0; i < Number(Deno.args[0]); i++) console.log(rank.repeat(Number(Deno.args[1])));
