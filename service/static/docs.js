// Shows the contract with short names and an example in Swagger UI: same origin only, in the preferred colour scheme, with "Try it out" enabled.

const dark = matchMedia("(prefers-color-scheme: dark)");
const followColourScheme = () => document.documentElement.classList.toggle("dark-mode", dark.matches);
dark.addEventListener("change", followColourScheme);
followColourScheme();

SwaggerUIBundle({
  url: "/docs/openapi.json",
  dom_id: "#swagger-ui",
  deepLinking: true,
  persistAuthorization: true,
  tryItOutEnabled: true,
  displayRequestDuration: true,
  defaultModelsExpandDepth: 0,
  // Disable the badge that would send the document's address to a validator on the internet.
  validatorUrl: null,
});
