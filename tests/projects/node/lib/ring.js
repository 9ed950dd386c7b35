/** A buffer of fixed capacity that forgets its oldest entries. */
export class Ring {
  #slots;
  #start = 0;
  #length = 0;

  constructor(capacity) {
    if (!Number.isInteger(capacity) || capacity < 1) throw new RangeError(`capacity ${capacity}`);
    this.#slots = new Array(capacity);
  }

  get length() {
    return this.#length;
  }

  push(value) {
    const capacity = this.#slots.length;
    this.#slots[(this.#start + this.#length) % capacity] = value;
    if (this.#length < capacity) this.#length += 1;
    else this.#start = (this.#start + 1) % capacity;
  }

  *[Symbol.iterator]() {
    for (let i = 0; i < this.#length; i += 1) yield this.#slots[(this.#start + i) % this.#slots.length];
  }
}
