// A saved panel tells the page around it how tall it is.
addEventListener("message", (event) => {
  const height = event.data?.sdfdiffHeight;
  if (!(height > 0)) return;
  for (const frame of document.querySelectorAll("iframe.panel"))
    if (frame.contentWindow === event.source) frame.style.height = `${height}px`;
});
