/* Browsers start no worker from a file. A page that was opened as one runs the worker's script in a hidden frame. */
(function () {
  if (location.protocol !== "file:") return;

  window.Worker = class extends EventTarget {
    constructor(address) {
      super();
      this.waiting = [];
      const frame = document.createElement("iframe");
      frame.hidden = true;
      document.body.appendChild(frame);
      const inside = frame.contentWindow;
      // What the script posts goes to whoever listens here; messages are copied, as a worker's are.
      inside.postMessage = (data) => {
        const message = new MessageEvent("message", { data: JSON.parse(JSON.stringify(data)) });
        setTimeout(() => { this.dispatchEvent(message); if (this.onmessage) this.onmessage(message); });
      };
      inside.importScripts = (...addresses) => addresses.reduce(
        (before, each) => before.then(() => this.load(inside, each)), Promise.resolve());
      this.frame = frame;
      this.load(inside, address).then(() => {
        const held = this.waiting;
        this.waiting = null;
        held.forEach((data) => this.postMessage(data));
      });
    }

    load(inside, address) {
      return new Promise((resolve, reject) => {
        const script = inside.document.createElement("script");
        script.src = new URL(address, location.href).href;
        script.onload = resolve;
        script.onerror = () => reject(new Error("cannot load " + address));
        inside.document.body.appendChild(script);
      });
    }

    postMessage(data) {
      if (this.waiting) { this.waiting.push(data); return; }
      const inside = this.frame.contentWindow;
      inside.dispatchEvent(new inside.MessageEvent("message", { data: JSON.parse(JSON.stringify(data)) }));
    }

    terminate() { this.frame.remove(); }
  };
})();
