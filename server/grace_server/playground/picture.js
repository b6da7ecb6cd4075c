// A vector as a picture: one cell per dimension, its strength the value's size, its colour the sign.

export function picture(canvas, vector) {
  const columns = Math.ceil(Math.sqrt(vector.length * 4));
  const rows = Math.ceil(vector.length / columns);
  const size = Math.max(2, Math.floor(640 / columns));
  canvas.width = columns * size;
  canvas.height = rows * size;
  const style = getComputedStyle(canvas);
  const colours = { plus: style.getPropertyValue("--for"), minus: style.getPropertyValue("--against") };
  const context = canvas.getContext("2d");
  context.clearRect(0, 0, canvas.width, canvas.height);
  // The scale is that of the typical dimension: one outlier does not make the rest pale.
  const sorted = vector.map(Math.abs).sort((a, b) => a - b);
  const scale = sorted[Math.floor(sorted.length * 0.95)] || 1;
  vector.forEach((value, i) => {
    context.globalAlpha = Math.min(1, Math.abs(value) / scale);
    context.fillStyle = value < 0 ? colours.minus : colours.plus;
    context.fillRect((i % columns) * size, Math.floor(i / columns) * size, size - 1, size - 1);
  });
  context.globalAlpha = 1;
  const largest = vector.reduce((best, value, i) => (Math.abs(value) > Math.abs(vector[best]) ? i : best), 0);
  canvas.setAttribute(
    "aria-label",
    `${vector.length} dimensions; the largest is number ${largest} with ${vector[largest].toFixed(3)}`,
  );
}
