/** Log files: one folder a rank, `<dir>/<job>/attempt_0/<rank>/{stdout.log,stderr.log,error.json}`. */
import { UnavailableError } from "../src/core/errors.ts";
import type { LaunchConfig } from "./config.ts";

/** The log folder of a job. A disk that fills up costs the logs, not the job. */
export class LogFiles implements Disposable {
  /** `<dir>/<job>`. */
  readonly folder: string;
  readonly #tee: NonNullable<LaunchConfig["tee"]>;
  readonly #say: (line: string) => void;
  readonly #open = new Set<Deno.FsFile>();
  #failed = false;

  /** @throws {UnavailableError} If the folder cannot be made. */
  constructor(options: { dir: string; jobId: string; tee: LaunchConfig["tee"]; say: (line: string) => void }) {
    this.folder = `${options.dir.replace(/\/+$/, "") || "/"}/${options.jobId}`;
    this.#tee = options.tee ?? "both";
    this.#say = options.say;
    try {
      Deno.mkdirSync(this.folder, { recursive: true });
    } catch (cause) {
      throw new UnavailableError(`Cannot write logs to ${options.dir}: its folder for this job cannot be made`, {
        cause,
        hint: "give --log-dir a folder that this user can write; it is made if it does not exist",
      });
    }
  }

  /** Makes and names the folder of a rank. */
  rankFolder(attempt: number, rank: number): string {
    const folder = `${this.folder}/attempt_${attempt}/${rank}`;
    Deno.mkdirSync(folder, { recursive: true });
    return folder;
  }

  /** What writes chunks to a stream's file; undefined closes it. */
  writer(attempt: number, rank: number, stream: "stdout" | "stderr"): (chunk: Uint8Array | undefined) => void {
    if (this.#tee !== "both" && this.#tee !== stream) return () => {};
    const path = `${this.rankFolder(attempt, rank)}/${stream}.log`;
    let file: Deno.FsFile | undefined;
    return (chunk) => {
      try {
        if (chunk === undefined) return this.#close(file);
        if (this.#failed) return;
        if (file === undefined) {
          file = Deno.openSync(path, { write: true, create: true, append: true });
          this.#open.add(file);
        }
        for (let at = 0; at < chunk.length;) at += file.writeSync(chunk.subarray(at));
      } catch (error) {
        this.#fail(path, error);
      }
    };
  }

  /** Writes the summary of the job. */
  writeSummary(name: string, summary: unknown): void {
    const path = `${this.folder}/${name}`;
    try {
      Deno.writeTextFileSync(path, JSON.stringify(summary, null, 2) + "\n");
    } catch (error) {
      this.#fail(path, error);
    }
  }

  [Symbol.dispose](): void {
    for (const file of [...this.#open]) this.#close(file);
  }

  #close(file: Deno.FsFile | undefined): void {
    if (file !== undefined && this.#open.delete(file)) file.close();
  }

  #fail(path: string, error: unknown): void {
    if (this.#failed) return;
    this.#failed = true;
    this.#say(
      `logging stops, the job goes on: cannot write ${path}: ${error instanceof Error ? error.message : error}`,
    );
  }
}
