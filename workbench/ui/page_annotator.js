const root = element.querySelector("[data-annotator]"), known = new Map();
let callNote = () => {};

// Files that browsers read are fetched as they are; the others, and the small pictures, are made by Python.
const served = path => `${window.gradio_config?.root ?? ""}/gradio_api/file=${path}`;
const remade = (id, isSmall) => {
  const key = `${isSmall} ${id}`;
  if (!known.has(key)) known.set(key, server.picture({id, is_small: isSmall}));
  return known.get(key);
};

// One value after the other: two at once might arrive in the wrong order. Of those that wait only the newest is sent.
let sent = Promise.resolve(), waiting = null;
const keep = value => {
  const isSoonSent = waiting !== null;
  waiting = value;
  if (isSoonSent) return;
  sent = sent.then(() => {
    const next = waiting;
    waiting = null;
    return server.keep(next);
  }).then(note => callNote(note), error => callNote({text: `not saved: ${error}`, is_error: true}));
};

mountAnnotator(root, {
  task: props.task,
  get: () => props.value,
  set(value) {
    props.value = value;
    trigger("change");
    keep(value);
  },
  watch(callback) {
    watch("value", () => callback(props.value));
    // The page was made when the server started; what was marked since then is fetched now.
    server.latest({}).then(value => {
      props.value = value;
      callback(value);
    });
  },
  ask: request => trigger("ask", request),
  async picture(id, isSmall) {
    const file = props.task.files[id];
    return file && !isSmall ? served(file) : remade(id, isSmall);
  },
  notes: callback => { callNote = callback; },
});
