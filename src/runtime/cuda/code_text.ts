/** CUDA C for kernels that ops bring with them. */
import type { CodeStep } from "../../ops/kernels/kernel.ts";
import { Arguments, declareParams, type Launch } from "./kernel_arguments.ts";
import { KernelTexts } from "./kernel_texts.ts";

/** The kernel of a step; undefined where there is nothing to compute. */
export function codeLaunch(step: CodeStep, texts: KernelTexts = new KernelTexts()): Launch | undefined {
  const { blocks, threads } = step;
  if (blocks === 0) return undefined;
  const args = new Arguments(), lines: string[] = [];
  for (const [isRead, pointers] of [[true, step.reads], [false, step.writes]] as const) {
    for (const [name, { operand, offset = 0 }] of Object.entries(pointers)) {
      const at = offset === 0 ? "" : ` + ${args.int(`${name}_from`, offset)}`;
      lines.push(`auto* const ${name} = ${args.address(name, operand, isRead)}${at};`);
    }
  }
  lines.push(declareParams(args, step.params, () => true));
  return args.launch(`  ${lines.join(" ")}\n${step.body}`, { blocks, threads, bound: threads, wide: false, texts });
}
