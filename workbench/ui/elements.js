// Building of page elements.

function make(kind, properties = {}, ...children) {
  const {data = {}, aria = {}, ...rest} = properties;
  const element = Object.assign(document.createElement(kind), rest);
  Object.assign(element.dataset, data);
  for (const [name, value] of Object.entries(aria)) element.setAttribute(`aria-${name}`, value);
  element.append(...children.filter(child => child !== null));
  return element;
}

const button = (text, title, onclick, more = {}) =>
  make("button", {type: "button", textContent: text, title, onclick, ...more});
