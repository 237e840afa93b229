"""The Console: the server. Serves its web page and API on 8083 and takes Defenders on 8084."""
