// deno-lint-ignore-file no-console -- a user's program
/** Ranks that treat SIGTERM in the way MODE: `ignore` it, `save` their state and end with 75, or `block` in native code. */
const mode = Deno.args[0];
const rank = Number(Deno.env.get("RANK"));
if (mode === "block") {
  const libc = Deno.dlopen("libc.so.6", { usleep: { parameters: ["u32"], result: "i32" } });
  Deno.addSignalListener("SIGTERM", () => console.log("never"));
  console.log(`rank ${rank} is up`);
  for (;;) libc.symbols.usleep(50_000);
}
if (mode === "ignore" && rank === 1) Deno.addSignalListener("SIGTERM", () => console.log(`rank ${rank} ignores it`));
if (mode === "save") {
  Deno.addSignalListener("SIGTERM", () => {
    console.log(`rank ${rank} saved`);
    Deno.exit(75);
  });
}
if (mode === "usr2") Deno.addSignalListener("SIGUSR2", () => console.log(`rank ${rank} got USR2`));
console.log(`rank ${rank} is up`);
await new Promise((done) => setTimeout(done, 60_000));
