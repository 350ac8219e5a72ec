"""`hostelry bench`: speed and quality, seen from outside over HTTP, beside any other OpenAI server in the same run."""
