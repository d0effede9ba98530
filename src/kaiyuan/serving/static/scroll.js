// Following a text that grows, until the reader scrolls up; at the end again, it is followed again.

const NEAR = 40;

export class Follower {
  /** `onChange(following)` is called when the reader lets go or comes back. */
  constructor(scroller, onChange) {
    Object.assign(this, { scroller, onChange, following: true, last: 0 });
    scroller.addEventListener("scroll", () => this.scrolled(), { passive: true });
    scroller.addEventListener("wheel", (event) => event.deltaY < 0 && this.canScroll() && this.set(false), { passive: true });
    new ResizeObserver(() => this.keepUp()).observe(scroller);
  }

  canScroll() {
    return this.scroller.scrollHeight > this.scroller.clientHeight;
  }

  scrolled() {
    const { scrollTop, scrollHeight, clientHeight } = this.scroller;
    const gap = scrollHeight - clientHeight - scrollTop;
    if (scrollTop < this.last - 1 && gap > 1) this.set(false);
    else if (gap < NEAR && scrollTop >= this.last) this.set(true);
    this.last = scrollTop;
  }

  set(following) {
    if (this.following === following) return;
    this.following = following;
    this.onChange(following);
  }

  /** To be called when the text has grown. */
  keepUp() {
    if (!this.following) return;
    this.scroller.scrollTop = this.scroller.scrollHeight;
    this.last = this.scroller.scrollTop;
  }

  toEnd() {
    this.set(true);
    this.keepUp();
  }
}
