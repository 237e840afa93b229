"""Pages, templates and static files. They use the API's services, not their own."""
