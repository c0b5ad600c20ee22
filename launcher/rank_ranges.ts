/** Ranks in any order as `0,2-6`. Pure. */
export function rankRanges(list: Iterable<number>): string {
  const ranks = [...list].sort((a, b) => a - b);
  const parts: string[] = [];
  for (let i = 0; i < ranks.length;) {
    let j = i;
    while (ranks[j + 1] === ranks[j]! + 1) j++;
    parts.push(j === i ? `${ranks[i]}` : `${ranks[i]}-${ranks[j]}`);
    i = j + 1;
  }
  return parts.join(",");
}
