/** Prints, in one write, who this process believes to be. */
import { detectLaunchEnv } from "../../../src/core/launch_env.ts";

Deno.stdout.writeSync(new TextEncoder().encode(`WHO ${JSON.stringify(detectLaunchEnv(Deno.env.toObject()))}\n`));
