/** What is known of kernel texts already: which names expressions mention, and what a body is called. Steps of new sizes have old texts. */
import { createHash } from "node:crypto";

/** The name of a kernel and its whole text. */
export interface NamedText {
  readonly name: string;
  readonly text: string;
}

/** Remembers what was worked out for a text. */
export class KernelTexts {
  readonly #mentions = new Map<string, Map<string, boolean>>();
  readonly #named = new Map<string, NamedText>();

  /** Whether one of `expressions` uses `name`, or a name that is `name` and digits where it ends in `#`. */
  mentions(expressions: readonly string[], name: string): boolean {
    return expressions.some((expression) => {
      let names = this.#mentions.get(expression);
      if (!names) this.#mentions.set(expression, names = new Map());
      let known = names.get(name);
      if (known === undefined) {
        const pattern = name.endsWith("#") ? `\\b${name.slice(0, -1)}\\d` : `\\b${name}\\b`;
        names.set(name, known = new RegExp(pattern).test(expression));
      }
      return known;
    });
  }

  /** The kernel of `body`: named after what it says, so that equal bodies are one kernel. */
  named(body: string, write: (hash: string) => NamedText): NamedText {
    let known = this.#named.get(body);
    if (!known) this.#named.set(body, known = write(createHash("sha256").update(body).digest("hex").slice(0, 20)));
    return known;
  }
}
