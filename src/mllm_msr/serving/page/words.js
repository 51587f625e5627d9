// Words of a preference: which are new, and which belong to a phrase.

export const words = (text) => text.match(/[\p{L}\p{N}]+|[^\p{L}\p{N}]+/gu) ?? [];

// Return the indices of the words of `after` that are not in the longest common subsequence with `before`.
export function newWords(before, after) {
  const length = Array.from({ length: before.length + 1 }, () => new Uint16Array(after.length + 1));
  for (let i = before.length - 1; i >= 0; i--) {
    for (let j = after.length - 1; j >= 0; j--) {
      length[i][j] = before[i] === after[j] ? length[i + 1][j + 1] + 1 : Math.max(length[i + 1][j], length[i][j + 1]);
    }
  }
  const fresh = new Set();
  for (let i = 0, j = 0; j < after.length;) {
    if (i < before.length && before[i] === after[j]) { i++; j++; }
    else if (i < before.length && length[i + 1][j] >= length[i][j + 1]) i++;
    else fresh.add(j++);
  }
  return fresh;
}

// Return the indices of the words that belong to one of the phrases.
export function phraseWords(all, phrases) {
  const indices = all.flatMap((word, at) => (/[\p{L}\p{N}]/u.test(word) ? [at] : []));
  const found = new Set();
  for (const phrase of phrases) {
    const wanted = phrase.toLowerCase().split(" ");
    for (let at = 0; at + wanted.length <= indices.length; at++) {
      if (wanted.every((word, n) => all[indices[at + n]].toLowerCase() === word)) {
        for (let index = indices[at]; index <= indices[at + wanted.length - 1]; index++) found.add(index);
      }
    }
  }
  return found;
}
