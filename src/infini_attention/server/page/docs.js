// The description of the API, shown by Swagger UI; nobody else is asked whether it is right.

window.SwaggerUIBundle({ url: "openapi.json", dom_id: "#swagger-ui", deepLinking: true, validatorUrl: null });
