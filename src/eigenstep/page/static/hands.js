// Hands on the pictures: pointer and arrow keys, and the clock that plays a run.

/** Call `to` with the place of the pointer while it is down, and with steps of the arrow keys. */
export function draggable(canvas, begin, to, by) {
  let held = false;
  const place = (event) => {
    const box = canvas.getBoundingClientRect();
    to(event.clientX - box.left, event.clientY - box.top, canvas.clientWidth, canvas.clientHeight);
  };
  canvas.addEventListener("pointerdown", (event) => {
    held = true;
    canvas.setPointerCapture(event.pointerId);
    begin();
    place(event);
  });
  canvas.addEventListener("pointermove", (event) => held && place(event));
  for (const end of ["pointerup", "pointercancel"]) canvas.addEventListener(end, () => (held = false));
  canvas.addEventListener("keydown", (event) => {
    const step = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] }[event.key];
    if (!step) return;
    event.preventDefault();
    begin();
    by(...step.map((s) => s * (event.shiftKey ? 5 : 1)));
  });
}

/** Plays from a share of the run to its end: `show(share)` at each frame, `told(playing)` when it begins and stops. */
export class Player {
  constructor(show, told) {
    this.show = show;
    this.told = told;
    this.frame = null;
  }

  play(from, milliseconds) {
    this.stop();
    const began = performance.now();
    const frame = (now) => {
      const share = Math.min(from + Math.max(now - began, 0) / milliseconds, 1);
      if (share >= 1) this.stop();
      else this.frame = requestAnimationFrame(frame);
      this.show(share);
    };
    this.frame = requestAnimationFrame(frame);
    this.told(true);
  }

  get playing() {
    return this.frame !== null;
  }

  stop() {
    cancelAnimationFrame(this.frame);
    this.frame = null;
    this.told(false);
  }
}
