// The marks and all that may happen to them, without any interface: changes with undo and redo, what one change means
// for the state of its pair, the cost of labelling, and marks that arrive from Python while a person works.
// The form of `value` is that of workbench/annotation.py.

const PAUSE_S = 15; // longer breaks count as that much attention

const isObject = mark => mark.kind !== "click" && mark.positive && mark.status === "kept";
const objectsOf = pair => pair.marks.filter(isObject);
const nextId = pair => 1 + Math.max(0, ...pair.marks.map(mark => mark.id));
const keyOf = phrase => phrase.trim().split(/\s+/).join(" ").toLowerCase();
const copyOf = value => JSON.parse(JSON.stringify(value));

function createStore(initial, onCommit) {
  let value = copyOf(initial);
  const added = new Set(); // phrases that Python has not been heard to know
  let done = [], undone = [], spent = {clicks: 0, seconds: 0}, last = null;

  const picture = id => value.pictures.find(entry => entry.id === id);
  const pair = (id, phrase) => picture(id)?.pairs[phrase] ?? {state: "unchecked", exhaustive: false, marks: []};

  function commit(id) {
    const entry = picture(id);
    if (entry) {
      entry.revision += 1;
      entry.clicks += spent.clicks;
      entry.seconds = Math.round(10 * (entry.seconds + spent.seconds)) / 10;
      spent = {clicks: 0, seconds: 0};
    }
    onCommit(copyOf(value));
  }

  // Applies one side of a recorded change; it touches only the marks of that change, so that others may come meanwhile.
  function put(change, side) {
    const now = copyOf(pair(change.id, change.phrase));
    const changed = new Map(change.marks.map(sides => [sides[0]?.id ?? sides[1].id, sides[side]]));
    now.marks = now.marks.filter(mark => !changed.has(mark.id)).concat([...changed.values()].filter(Boolean));
    now.marks.sort((a, b) => a.id - b.id);
    Object.assign(now, change.flags[side]);
    if (objectsOf(now).length) now.state = "present";
    else now.exhaustive = false;
    picture(change.id).pairs[change.phrase] = now;
  }

  // `edit` changes a copy of the pair; what it did becomes one step of undo.
  function change(id, phrase, edit) {
    const before = copyOf(pair(id, phrase)), after = copyOf(before);
    edit(after);
    settle(before, after);
    const ids = new Set([...before.marks, ...after.marks].map(mark => mark.id));
    const find = (side, mark) => side.marks.find(other => other.id === mark) ?? null;
    const marks = [...ids].map(mark => [find(before, mark), find(after, mark)])
      .filter(([old, now]) => JSON.stringify(old) !== JSON.stringify(now));
    const flags = [before, after].map(({state, exhaustive}) => ({state, exhaustive}));
    if (!marks.length && JSON.stringify(flags[0]) === JSON.stringify(flags[1])) return;
    const step = {id, phrase, marks, flags};
    put(step, 1);
    done.push(step);
    undone = [];
    commit(id);
  }

  // A marked object means that the phrase is present; without the last one, nobody has checked it any more.
  function settle(before, after) {
    const ids = new Set(after.marks.map(mark => mark.id));
    after.marks = after.marks.filter(mark => mark.of === undefined || ids.has(mark.of) || mark.kind !== "click");
    after.marks.forEach(mark => { if (mark.of !== undefined && !ids.has(mark.of)) delete mark.of; });
    if (objectsOf(after).length) after.state = "present";
    else {
      after.exhaustive = false;
      if (objectsOf(before).length) after.state = "unchecked";
    }
  }

  function step(from, to, side) {
    const one = from.pop();
    if (!one || !value.phrases.includes(one.phrase)) return null;
    put(one, side);
    to.push(one);
    commit(one.id);
    return one;
  }

  // A value from Python. What a person did since Python last heard of it stays; new proposals are added to it.
  function adopt(incoming) {
    let isNewer = false;
    const next = copyOf(incoming);
    next.pictures = next.pictures.map(theirs => {
      const mine = picture(theirs.id);
      if (!mine || mine.revision <= theirs.revision) return theirs;
      isNewer = true;
      for (const [phrase, {marks}] of Object.entries(theirs.pairs)) {
        const proposals = marks.filter(mark => mark.status === "proposed");
        if (!proposals.length) continue;
        const own = copyOf(pair(theirs.id, phrase));
        const known = new Set(own.marks.map(mark => mark.rle));
        for (const mark of proposals.filter(mark => !known.has(mark.rle))) own.marks.push({...mark, id: nextId(own)});
        mine.pairs[phrase] = own;
      }
      return mine;
    });
    const mentioned = next.pictures.flatMap(entry => Object.keys(entry.pairs));
    next.phrases.forEach(phrase => added.delete(phrase));
    if (added.size) isNewer = true;
    next.phrases = [...new Set([...next.phrases, ...mentioned, ...added])];
    value = next;
    if (isNewer) onCommit(copyOf(value));
  }

  function addPhrase(text) {
    const phrase = text.trim().split(/\s+/).join(" ");
    const known = value.phrases.find(other => keyOf(other) === keyOf(phrase));
    if (!phrase || known) return known ?? null;
    value.phrases.push(phrase);
    added.add(phrase);
    onCommit(copyOf(value));
    return phrase;
  }

  // Only a phrase of which nothing is known goes; the number of pictures that know it comes back otherwise.
  function removePhrase(phrase) {
    const isKnown = one => one && (one.state !== "unchecked" || one.marks.some(mark => mark.status !== "rejected"));
    const count = value.pictures.filter(entry => isKnown(entry.pairs[phrase])).length;
    if (count) return count;
    value.phrases = value.phrases.filter(other => other !== phrase);
    added.delete(phrase);
    value.pictures.forEach(entry => { delete entry.pairs[phrase]; });
    onCommit(copyOf(value));
    return 0;
  }

  return {
    get value() { return value; },
    get canUndo() { return done.length > 0; },
    get canRedo() { return undone.length > 0; },
    picture, pair, change, adopt, addPhrase, removePhrase,
    undo: () => step(done, undone, 0),
    redo: () => step(undone, done, 1),
    // Attention: called with the time in seconds at every pointer and key event.
    spend(seconds, isClick) {
      if (last !== null) spent.seconds += Math.min(PAUSE_S, Math.max(0, seconds - last));
      last = seconds;
      if (isClick) spent.clicks += 1;
    },
    cost: id => ({
      clicks: (picture(id)?.clicks ?? 0) + spent.clicks,
      seconds: (picture(id)?.seconds ?? 0) + spent.seconds,
    }),
    medianSeconds() {
      const all = value.pictures.map(entry => entry.seconds).filter(Boolean).sort((a, b) => a - b);
      const half = all.length / 2;
      return all.length ? (all[Math.ceil(half) - 1] + all[Math.floor(half)]) / 2 : 0;
    },
    // Books the cost on a picture that is left without a further change.
    leave(id) { if (spent.clicks && picture(id)) commit(id); },
    // "done", "begun" or "open": whether every phrase is answered in a picture.
    progress(id) {
      const pairs = value.phrases.map(phrase => pair(id, phrase));
      const isDone = one => one.state === "absent" || one.exhaustive;
      if (pairs.length && pairs.every(isDone)) return "done";
      return pairs.some(one => one.state !== "unchecked" || one.marks.length) ? "begun" : "open";
    },
  };
}
