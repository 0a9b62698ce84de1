// Files that a notebook's page cannot reach come from Python as bytes, each once.

function filesOf(model) {
  const waiting = new Map(), known = new Map();
  let number = 0;
  model.on("msg:custom", ({number: answered, error}, buffers) => {
    const [done, failed] = waiting.get(answered) ?? [];
    waiting.delete(answered);
    if (error) failed?.(new Error(error));
    else done?.(URL.createObjectURL(new Blob([buffers[0]])));
  });
  return wish => {
    const key = JSON.stringify(wish);
    if (!known.has(key)) {
      known.set(key, new Promise((done, failed) => {
        waiting.set(++number, [done, failed]);
        model.send({number, ...wish});
      }));
    }
    return known.get(key);
  };
}
